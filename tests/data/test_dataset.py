"""Records become items with final labels, a batch mixes all kinds of them, and faults are named with the record."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from flash_vstream.data import ConversationCollator, ConversationDataset, MediaFolders
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.model import VStreamProcessor
from flash_vstream.model.prompts import V1_SYSTEM
from flash_vstream.model.visuals import Digest, Features, Pixels
from tests.conftest import TinyModel
from tests.data.files import TURNS, conversation, image_record, record, text_record, write_picture
from tests.video.clips import write_clip

IGNORED = -100
N_PATCHES, WIDTH = 16, 32  # of the tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.jpg, the four-second video a.mp4, and features of a picture (a.jpg) and of one 20 s long (f.mp4)."""
    folder = tmp_path_factory.mktemp("media")
    write_picture(folder / "a.jpg")
    write_clip(folder / "a.mp4", range(0, 4000, 250))
    torch.manual_seed(0)
    FeatureFile.write(folder / "features" / "f.safetensors", torch.randn(20, N_PATCHES, WIDTH).half(), {"fps": "1.0"})
    FeatureFile.write(folder / "features" / "a.safetensors", torch.randn(N_PATCHES, WIDTH).half(), {})
    return folder


@pytest.fixture
def processor(tiny_model: TinyModel) -> VStreamProcessor:
    return tiny_model[1]


def dataset(records: list[dict[str, Any]], processor: VStreamProcessor, folder: Path, **changes: Any) -> Any:
    changes = {"conversation": "v1", "folders": MediaFolders(folder, folder), **changes}
    return ConversationDataset(records, processor, **changes)


def of_features(folder: Path) -> MediaFolders:
    return MediaFolders(image_features=folder / "features", video_features=folder / "features")


def expected(processor: VStreamProcessor, n_tokens: int, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """ids and labels put together piece by piece, for a tokenizer of single bytes; 2 is the end of an answer."""

    def spelt(text: str) -> list[int]:
        return [processor.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in text]

    ids = spelt(V1_SYSTEM + " ")
    labels = [IGNORED] * len(ids)
    for number, (question, answer) in enumerate(turns):
        asked = [*spelt("USER: "), *[processor.visual_token_id] * (0 if number else n_tokens)]
        asked += spelt(("\n" if n_tokens and not number else "") + f"{question} ASSISTANT:")
        told = [*spelt(f" {answer}"), 2]
        ids += asked + told
        labels += [IGNORED] * len(asked) + told
    return ids, labels


def plain_turns(whole: dict[str, Any]) -> list[tuple[str, str]]:
    texts = [turn["value"].replace("<image>", "").strip() for turn in whole["conversations"]]
    return list(zip(texts[0::2], texts[1::2], strict=True))


def test_ids_and_labels_are_those_of_an_independent_count(folder: Path, processor: VStreamProcessor) -> None:
    records = [image_record(), record(), text_record(), record(end_time=2.5), record(time=1)]
    frames = [1, 4, 0, 3, 1]
    for whole, item, n_frames in zip(records, dataset(records, processor, folder), frames, strict=True):
        n_tokens = processor.memory.num_tokens(n_frames)
        ids, labels = expected(processor, n_tokens, plain_turns(whole))
        assert item["input_ids"].tolist() == ids
        assert item["labels"].tolist() == labels
    caption = image_record(conversations=conversation([("Describe.\n<image>", "a red wall")]))
    item = dataset([caption], processor, folder, conversation="plain")[0]
    learnt = processor.tokenizer("a red wall\n", add_special_tokens=False)["input_ids"]
    visual = processor.memory.num_tokens(1)
    assert item["input_ids"].tolist() == [processor.visual_token_id] * visual + learnt
    assert item["labels"].tolist() == [IGNORED] * visual + learnt


def test_a_batch_mixes_everything_and_is_learnt_from(folder: Path, tiny_model: TinyModel) -> None:
    model, processor = tiny_model
    seen = dataset([image_record(), text_record(), record()], processor, folder)
    extracted = dataset(
        [record(video="f.mp4"), image_record(), record(video="f.mp4", time=7.5)],
        processor,
        folder,
        folders=of_features(folder),
    )
    items = [extracted[0], seen[0], seen[1], extracted[1], seen[2], extracted[2]]
    assert [len(item["visual"].values) for item in extracted] == [20, 1, 1]
    collate = ConversationCollator(processor.pad_token_id)
    batch = collate(items)
    assert [type(visual) for visual in batch["visuals"]] == [Features, Pixels, Features, Pixels, Features]
    assert batch["attention_mask"].sum(1).tolist() == [len(item["input_ids"]) for item in items]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    labels = batch["labels"].clone()
    trained = copy.deepcopy(model).train()
    loss = trained(**batch).loss
    loss.backward()
    assert torch.equal(batch["labels"], labels)
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in trained.projector.parameters())
    # The loss is the mean over all that is learnt, so it is that of the items alone, each with its weight.
    with torch.no_grad():
        alone = torch.stack([model(**collate([item])).loss for item in items])
    weights = torch.tensor([float((item["labels"] != IGNORED).sum()) for item in items])
    torch.testing.assert_close(loss.detach(), (alone * weights).sum() / weights.sum(), rtol=1e-4, atol=1e-4)


def test_digests_stand_for_features(folder: Path, tiny_model: TinyModel) -> None:
    """Pictures that come as files go through the tower as ever."""
    model, processor = copy.deepcopy(tiny_model[0]).train(), tiny_model[1]
    records = [record(video="f.mp4"), image_record(), record(video="f.mp4", time=7.5)]
    folders = of_features(folder)
    collate = ConversationCollator(processor.pad_token_id)
    batches = []
    for digests in (False, True):
        extracted = dataset(records, processor, folder, folders=folders, digests=digests)
        items = [*extracted, *dataset([image_record()], processor, folder, digests=digests)]
        batches.append(collate(items))
    assert [type(visual) for visual in batches[0]["visuals"]] == [Features, Features, Features, Pixels]
    assert [type(visual) for visual in batches[1]["visuals"]] == [Digest, Digest, Digest, Pixels]
    assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    assert torch.equal(model(**batches[0]).loss, model(**batches[1]).loss)
    recent = copy.copy(processor)
    recent.memory = dataclasses.replace(processor.memory, mode="recent")
    with pytest.raises(ValueError, match="digests are of the memory of mode 'star', not 'recent'"):
        dataset(records, recent, folder, digests=True)


def test_a_batch_of_text_alone_has_no_visuals(folder: Path, processor: VStreamProcessor) -> None:
    items = dataset([text_record(), text_record(id="t2")], processor, folder)
    batch = ConversationCollator(processor.pad_token_id)([items[0], items[1]])
    assert set(batch) == {"input_ids", "labels", "attention_mask"}


def test_long_conversations_are_cut_at_a_turn(folder: Path, processor: VStreamProcessor) -> None:
    turns = [(f"Question {number}?", "yes " * 5 + str(number)) for number in range(6)]
    whole = record(conversations=conversation(turns), end_time=3)
    n_tokens = processor.memory.num_tokens(3)
    ends = [len(expected(processor, n_tokens, turns[:count])[0]) for count in range(1, 7)]
    for max_length in (ends[0], ends[1] - 1, ends[3], ends[4] + 5, ends[5], 10_000):
        item = dataset([whole], processor, folder, max_length=max_length)[0]
        fitting = sum(end <= max_length for end in ends)
        ids, labels = expected(processor, n_tokens, turns[:fitting])
        assert (item["input_ids"].tolist(), item["labels"].tolist()) == (ids, labels)
    for max_length in (ends[0] - 1, 5, n_tokens // 2):
        with pytest.raises(ValueError, match=rf"record 'r1': .*max_length {max_length}"):
            dataset([whole], processor, folder, max_length=max_length)[0]
    # What is left after the cut must still have something to teach.
    silent = text_record(conversations=conversation([("a", ""), ("b" * 200, "yes")]))
    assert len(dataset([silent], processor, folder)[0]["labels"]) > 250
    with pytest.raises(ValueError, match=r"record 't1': .*no answer"):
        dataset([silent], processor, folder, max_length=250)[0]


def test_lengths_and_modalities_are_told_without_any_media(processor: VStreamProcessor, tmp_path: Path) -> None:
    long = text_record(id="t2", conversations=conversation([("a" * 400, "b" * 800)]))
    records = [record(), image_record(), text_record(), long, record(time=3), record(end_time=4), record(time_9=9)]
    told = dataset(records, processor, tmp_path)  # an empty folder
    assert told.modalities() == ["video", "image", "text", "text", "video", "video", "video"]
    tokens = processor.memory.num_tokens
    text = sum(len(question) + len(answer) for question, answer in TURNS)
    assert told.lengths().tolist() == [
        tokens(float("inf")) + text // 4 + 1,
        tokens(1) + text // 4 + 1,
        sum(map(len, ("Is water wet?", "yes", "And ice?", "no"))) // 4 + 1,
        301,
        tokens(1) + text // 4 + 1,
        tokens(4) + text // 4 + 1,
        tokens(9) + text // 4 + 1,
    ]
    assert dataset(records, processor, tmp_path, max_length=50).lengths().max() == 50
    assert dataset([long], processor, tmp_path, conversation="plain").lengths().tolist() == [201]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(video="none.mp4"), "record 'r1': .*none.mp4 does not exist"),
        (image_record(image="none.jpg"), "record 'i1': picture .*none.jpg is missing"),
        (record(conversations=None), "record 'r1' has no turns"),
        (text_record(conversations=conversation([("Which?", "")])), "record 't1': .*no answer"),
        (text_record(conversations=conversation([(" ", "a")])), "record 't1': the question of turn 1 is empty"),
    ],
)
def test_what_keeps_an_item_from_being_made_is_named(
    folder: Path, processor: VStreamProcessor, bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataset([bad], processor, folder)[0]


def test_features_of_another_model_are_refused(tmp_path: Path, processor: VStreamProcessor) -> None:
    folders = MediaFolders(video_features=tmp_path)
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(3, N_PATCHES, WIDTH + 1), {})
    with pytest.raises(ValueError, match=r"record 'r1': feature file .*a\.safetensors .* 33, not the model's 32"):
        dataset([record()], processor, tmp_path, folders=folders, spec=FeatureSpec(width=WIDTH))[0]
    for n_patches in (15, 4, 36):  # no square; smaller than 4 x 4; no multiple of it
        FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(3, n_patches, WIDTH), {})
        with pytest.raises(ValueError, match=rf"a\.safetensors has {n_patches} patches a frame"):
            dataset([record()], processor, tmp_path, folders=folders)[0]


def test_features_of_another_encoder_are_refused_where_they_say_so(tmp_path: Path, processor: VStreamProcessor) -> None:
    folders = MediaFolders(tmp_path, tmp_path, tmp_path, tmp_path)
    for seen, shape in ((record(), (3, N_PATCHES, WIDTH)), (image_record(), (N_PATCHES, WIDTH))):
        own = {"encoder": "aa", "layer": "-2"}
        for metadata, known in ((own, own), ({"encoder": "aa"}, None), ({}, own), (own, {"layer": "-2"})):
            FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(*shape), metadata)
            items = dataset([seen], processor, tmp_path, folders=folders, spec=FeatureSpec(encoder=known))
            assert "visual" in items[0]
        FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(*shape), {"encoder": "aa"})
        with pytest.raises(
            ValueError, match=rf"record '{seen['id']}': feature file .* another vision encoder \(aa, .* bb"
        ):
            dataset([seen], processor, tmp_path, folders=folders, spec=FeatureSpec(encoder={"encoder": "bb"}))[0]
        FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(*shape), {**own, "layer": "-1"})
        with pytest.raises(ValueError, match=r"an encoder with another layer \(-1, the model's is -2\): extract"):
            dataset([seen], processor, tmp_path, folders=folders, spec=FeatureSpec(encoder=own))[0]


def test_an_unknown_aspect_is_named(processor: VStreamProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aspect 'square' is unknown: choose one of plain, pad"):
        dataset([record()], processor, tmp_path, aspect="square")
