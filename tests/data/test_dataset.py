"""Records become items with final labels, features are read in part, and faults are named with the record."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizer

from flash_vstream.data import (
    ConversationCollator,
    ConversationDataset,
    load_records,
    read_features,
    write_features,
)
from flash_vstream.data.dataset import conversation_turns
from flash_vstream.data.features import frames_before
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor, VStreamProcessor
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.text import train_tokenizer
from flash_vstream.synthetic.world import make_stream

MEMORY = MemoryConfig(spatial_size=4, temporal_size=2)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> VStreamProcessor:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder)
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    return VStreamProcessor(tokenizer, FramePreprocessor(size=96, crop_size=96), MEMORY, visual_token_id=len(tokenizer))


def record(**changes: Any) -> dict[str, Any]:
    turns = [("Which room is shown now?\n<image>", "kitchen"), ("Which room was shown first?", "attic")]
    conversations = [{"from": f, "value": v} for turn in turns for f, v in zip(("human", "gpt"), turn, strict=True)]
    return {"id": "r1", "video": "a.mp4", "conversations": conversations, **changes}


def dataset(records: list[dict[str, Any]], processor: VStreamProcessor, folder: Path) -> ConversationDataset:
    return ConversationDataset(records, processor, "v1", folder, feature_folder=folder)


def test_an_item_shows_the_frames_before_its_end_time(tmp_path: Path, processor: VStreamProcessor) -> None:
    features = torch.randn(40, 16, 8).half()
    write_features(tmp_path / "a.safetensors", features, {})
    item = dataset([record(end_time=7.5)], processor, tmp_path)[0]
    torch.testing.assert_close(item["visual_features"], features[:8])
    assert (item["input_ids"] == processor.visual_token_id).sum() == MEMORY.num_tokens(8)
    one = dataset([record(time=7.5)], processor, tmp_path)[0]
    torch.testing.assert_close(one["visual_features"], features[7:8])


def test_labels_are_the_answers_with_their_end_and_nothing_else(tmp_path: Path, processor: VStreamProcessor) -> None:
    write_features(tmp_path / "a.safetensors", torch.randn(3, 16, 8).half(), {})
    item = dataset([record()], processor, tmp_path)[0]
    learnt = item["labels"][item["labels"] >= 0]
    assert [word.strip() for word in processor.tokenizer.decode(learnt).split("</s>")] == ["kitchen", "attic", ""]
    shown = item["labels"] >= 0
    assert torch.equal(item["input_ids"][shown], learnt)


def test_without_features_the_video_is_decoded(tmp_path: Path, processor: VStreamProcessor) -> None:
    write_mp4(make_stream(0, 60, 61), tmp_path / "a.mp4", fps=1)
    item = ConversationDataset([record(end_time=5)], processor, "v1", tmp_path)[0]
    assert item["pixel_values"].shape == (5, 3, 96, 96)


def test_a_batch_mixes_items_with_and_without_video(tmp_path: Path, processor: VStreamProcessor) -> None:
    write_features(tmp_path / "a.safetensors", torch.randn(3, 16, 8).half(), {})
    text_only = record(id="t")
    del text_only["video"]
    items = dataset([record(), text_only], processor, tmp_path)
    batch = ConversationCollator(processor.pad_token_id)([items[0], items[1]])
    assert len(batch["visual_features"]) == 1 and "pixel_values" not in batch
    assert batch["attention_mask"].sum(1).tolist() == [len(items[0]["input_ids"]), len(items[1]["input_ids"])]
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversations": []}, "'r1' has 0 turns"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "must be human, gpt"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "<image>"}]}, "in an answer"),
    ],
)
def test_records_that_cannot_be_learnt_from_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conversation_turns(record(**changes))


def test_an_answer_of_nothing_is_an_error_with_the_record(tmp_path: Path, processor: VStreamProcessor) -> None:
    empty = [{"from": "human", "value": "Which room?"}, {"from": "gpt", "value": ""}]
    with pytest.raises(ValueError, match=r"record 'r1'.*learnt"):
        dataset([{"id": "r1", "conversations": empty}], processor, tmp_path)[0]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '["a"]'])
def test_a_data_file_that_is_no_list_of_records_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"records\.json"):
        load_records(path)
    with pytest.raises(ValueError, match=r"missing"):
        load_records(tmp_path / "none.json")
    path.write_text(json.dumps([record()]))
    assert load_records(path) == [record()]


def test_feature_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with pytest.raises(ValueError, match=r"f\.safetensors is missing"):
        read_features(path)
    path.write_bytes(b"not a tensor file at all")
    with pytest.raises(ValueError, match=r"f\.safetensors is damaged"):
        read_features(path)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"keys \['other'\]"):
        read_features(path)
    write_features(path, torch.zeros(3, 4, 5), {"fps": "1.0"})
    assert read_features(path)[1] == {"fps": "1.0"}
    with pytest.raises(ValueError, match="no frame from 3 on"):
        read_features(path, 3)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("end", "fps", "count"), [(0.0, 1.0, 1), (3.0, 1.0, 3), (3.2, 1.0, 4), (2.0, 0.5, 1)])
def test_frames_before_a_time(end: float, fps: float, count: int) -> None:
    assert frames_before(end, fps) == count
