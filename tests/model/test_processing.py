"""The processor: placeholders, padding, what is learnt of a conversation, and tokenizers of several kinds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor, VStreamProcessor
from flash_vstream.model.prompts import V1_SYSTEM
from flash_vstream.model.tokenizer import load_tokenizer

from .tiny import MEMORY

LLAMA = Path(__file__).parent.parent / "golden" / "ckpt-vstream-safetensors"
VISUAL = 400
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [("What is it?", "A red car."), ("Where?", "In the  garden, 北京 é."), ("And now?", "gone")]


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """In the manner of Qwen: bytes, no BOS, ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate([*special, *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def make(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> VStreamProcessor:
    return VStreamProcessor(tokenizer, FramePreprocessor(size=28, crop_size=28), MEMORY, VISUAL, **changes)


@pytest.fixture(scope="module", params=["llama", "bytes"])
def processor(request: pytest.FixtureRequest) -> VStreamProcessor:
    return make(load_tokenizer(LLAMA) if request.param == "llama" else byte_level_tokenizer())


def words(processor: VStreamProcessor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def start(processor: VStreamProcessor) -> list[int]:
    return [1] if processor.tokenizer.bos_token else []


def test_a_visual_becomes_as_many_placeholders_as_the_memory_gives(processor: VStreamProcessor) -> None:
    for n_frames in (1, 2, 5, 6, 100):
        ids = processor("USER: <image>\nWhat? ASSISTANT:", [n_frames])["input_ids"][0].tolist()
        visual = [VISUAL] * MEMORY.num_tokens(n_frames)
        assert ids == start(processor) + words(processor, "USER: ") + visual + words(processor, "\nWhat? ASSISTANT:")


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_on_either_side(processor: VStreamProcessor, side: str) -> None:
    texts = ["<image> a <image> longer text", "short", "<image>\nx"]
    batch = processor(texts, [1, 3, 2], padding_side=side)
    for number, (text, frames) in enumerate(zip(texts, ([1, 3], [], [2]), strict=True)):
        alone = processor(text, frames)
        assert alone["attention_mask"].all()
        mask = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][mask].tolist() == alone["input_ids"][0].tolist()
        assert (batch["input_ids"][number][~mask] == processor.pad_token_id).all()
        gaps = (~mask).nonzero().flatten().tolist()
        length = len(mask)
        assert gaps == (list(range(len(gaps))) if side == "left" else list(range(length - len(gaps), length)))


def test_mistakes_are_named(processor: VStreamProcessor) -> None:
    with pytest.raises(ValueError, match=r"1 <image>.*n_frames has 2"):
        processor("<image> x", [1, 2])
    with pytest.raises(ValueError, match=r"1 <image>.*n_frames has 0"):
        processor("<image> x")
    with pytest.raises(ValueError, match="n_frames holds 0"):
        processor("<image> x", [0])
    with pytest.raises(ValueError, match="two <image>"):
        processor("a <image><image> x", [1, 2])
    with pytest.raises(ValueError, match=r"padding_side.*'middle'"):
        processor("x", padding_side="middle")
    with pytest.raises(ValueError, match="images"):
        processor("x", images=[])
    with pytest.raises(ValueError, match=r"'v7'.*v1, plain, chat_template"):
        processor.prompt("x", conversation="v7")
    with pytest.raises(ValueError, match="turn 1"):
        processor.prompt("  ")
    with pytest.raises(ValueError, match="turn 1"):
        processor.prompt([("a", None), ("b", None)])
    with pytest.raises(ValueError, match="turn"):
        processor.prompt([])
    with pytest.raises(ValueError, match="3 turns"):
        processor.encode_conversation(TURNS, conversation="plain")
    for turns in ([("a", None)], [("a", ""), ("b", " ")]):
        with pytest.raises(ValueError, match="no answer to learn"):
            processor.encode_conversation(turns)
    with pytest.raises(ValueError, match="no answer to learn"):
        processor.encode_conversation([("a", "")], [1], conversation="plain")


def test_v1_text() -> None:
    processor = make(load_tokenizer(LLAMA))
    assert processor.prompt([("Q1", "A1"), ("Q2", None)]) == (
        f"{V1_SYSTEM} USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"
    )
    assert processor.prompt("Q", with_visual=False) == f"{V1_SYSTEM} USER: Q ASSISTANT:"
    # A placeholder that is already there stays where it is.
    assert processor.prompt("Q <image> R") == f"{V1_SYSTEM} USER: Q <image> R ASSISTANT:"


@pytest.mark.parametrize("n_frames", [[], [3], [3, 1]])
def test_answers_with_their_ends_are_learnt(processor: VStreamProcessor, n_frames: list[int]) -> None:
    ids, labels = processor.encode_conversation(TURNS, n_frames)
    end = processor.tokenizer.eos_token_id
    learnt = labels != -100
    assert torch.equal(ids[learnt], labels[learnt])
    assert int((ids == VISUAL).sum()) == sum(map(MEMORY.num_tokens, n_frames))
    runs = learnt.int().diff(prepend=torch.zeros(1, dtype=torch.int)).eq(1).nonzero().flatten().tolist()
    assert len(runs) == len(TURNS)
    for begin, (_, answer) in zip(runs, TURNS, strict=True):
        stop = begin + ids[begin:].tolist().index(end)
        assert learnt[begin : stop + 1].all()
        assert stop + 1 == len(ids) or not learnt[stop + 1]
        assert answer is not None
        assert processor.decode(ids[begin:stop]).split() == answer.split()
    # What is learnt begins just where the prompt of the first question ends.
    visuals = "<image>\n" * len(n_frames)
    prompt = processor(processor.prompt(visuals + "What is it?", with_visual=False), n_frames)["input_ids"][0]
    assert ids[: runs[0]].tolist() == prompt.tolist()


@pytest.mark.parametrize("n_frames", [[], [3]])
def test_what_is_too_long_is_cut_at_a_turn(processor: VStreamProcessor, n_frames: list[int]) -> None:
    conversation = "chat_template" if processor.tokenizer.chat_template else "v1"
    whole = [processor.encode_conversation(TURNS[:count], n_frames, conversation) for count in (1, 2, 3)]
    lengths = [len(ids) for ids, _ in whole]
    assert lengths == sorted(set(lengths))
    for max_length in range(lengths[0], lengths[-1] + 2):
        ids, labels = processor.encode_conversation(TURNS, n_frames, conversation, max_length)
        wanted_ids, wanted_labels = whole[sum(length <= max_length for length in lengths) - 1]
        assert torch.equal(ids, wanted_ids) and torch.equal(labels, wanted_labels)
    for max_length in (lengths[0] - 1, 10, 0):
        with pytest.raises(ValueError, match=f"max_length {max_length}"):
            processor.encode_conversation(TURNS, n_frames, conversation, max_length)


def test_after_a_cut_something_is_left_to_be_learnt(processor: VStreamProcessor) -> None:
    turns = [("What?", ""), ("Where?", "In the garden.")]
    length = len(processor.encode_conversation(turns)[0])
    assert len(processor.encode_conversation(turns, max_length=length)[0]) == length
    with pytest.raises(ValueError, match="no answer to learn"):
        processor.encode_conversation(turns, max_length=length - 1)


def test_captions_are_learnt_with_their_newline(processor: VStreamProcessor) -> None:
    ids, labels = processor.encode_conversation([("ignored", "a red car")], [2], conversation="plain")
    visual = MEMORY.num_tokens(2)
    expected = words(processor, "a red car\n")
    assert ids.tolist() == start(processor) + [VISUAL] * visual + expected
    assert labels.tolist() == [-100] * (len(start(processor)) + visual) + expected


def test_own_chat_template() -> None:
    processor = make(byte_level_tokenizer(), conversation="chat_template")
    prompt = processor.prompt("What?")
    assert prompt == "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    ids, labels = processor.encode_conversation([("What?", "A car."), ("Now?", "gone")], [2])
    learnt = processor.decode(labels[labels != -100], skip_special_tokens=False)
    assert learnt == "A car.<|im_end|>\ngone<|im_end|>\n"
    prompt_ids = processor(prompt, [2])["input_ids"][0]
    assert torch.equal(ids[: len(prompt_ids)], prompt_ids)
    with pytest.raises(ValueError, match="chat template"):
        make(load_tokenizer(LLAMA)).prompt("What?", conversation="chat_template")


def test_decoding_leaves_placeholders_out(processor: VStreamProcessor) -> None:
    ids = processor("USER: <image>\nWhat? 北京", [2])["input_ids"]
    assert processor.decode(ids[0]).replace("\n", "").split() == ["USER:", "What?", "北京"]
    assert processor.batch_decode(ids) == [processor.decode(ids[0])]


def test_saved_and_opened_again(processor: VStreamProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for again in (VStreamProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, VStreamProcessor)
        assert again.to_dict() == processor.to_dict()
        assert again.memory == MEMORY
        assert again.frames == processor.frames
        ids, labels = processor.encode_conversation(TURNS, [3])
        ids_again, labels_again = again.encode_conversation(TURNS, [3])
        assert torch.equal(ids, ids_again)
        assert torch.equal(labels, labels_again)
    changed = VStreamProcessor.from_pretrained(tmp_path, memory_mode="recent")
    assert changed.memory.mode == "recent"
    assert VStreamProcessor.from_pretrained(tmp_path, memory=MemoryConfig()).memory == MemoryConfig()


def test_damaged_processor_files_are_named(processor: VStreamProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"processor_config\.json"):
        VStreamProcessor.from_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    whole = file.read_text()
    file.write_text(whole[:30])
    with pytest.raises(ValueError, match=r"processor_config\.json"):
        VStreamProcessor.from_pretrained(tmp_path)
    file.write_text(whole.replace('"visual_token_id"', '"image_token_id"'))
    with pytest.raises(ValueError, match="image_token_id, visual_token_id"):
        VStreamProcessor.from_pretrained(tmp_path)
    for field in ("frames", "memory"):
        for value in (5, None, ["x"]):
            file.write_text(json.dumps(json.loads(whole) | {field: value}))
            with pytest.raises(ValueError, match=r"processor_config\.json") as raised:
                VStreamProcessor.from_pretrained(tmp_path)
            assert "\n" not in str(raised.value)
    file.write_text(whole)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        VStreamProcessor.from_pretrained(tmp_path)


def test_frames_become_pixels(processor: VStreamProcessor) -> None:
    pixels = processor.frames_to_pixels(np.zeros((2, 30, 40, 3), dtype=np.uint8))
    assert pixels.shape == (2, 3, 28, 28)
    assert pixels.dtype == torch.float32


@pytest.mark.parametrize("remove_extra_whitespaces", [True, False])
def test_llama_ids_are_sentencepieces(tmp_path: Path, remove_extra_whitespaces: bool) -> None:
    """Real Vicuna keeps extra spaces, the golden tokenizer drops them: both are written in the file."""
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString((LLAMA / "tokenizer.model").read_bytes())
    model.normalizer_spec.remove_extra_whitespaces = remove_extra_whitespaces
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    (tmp_path / "tokenizer_config.json").write_bytes((LLAMA / "tokenizer_config.json").read_bytes())
    ours = load_tokenizer(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    draw = random.Random(0)
    texts = ["", " ", "USER: ", " a", "a  b ", "\n", "x\n y", "A question", "  two"]
    texts += ["".join(draw.choices("  abcde\n.ASU:é你", k=draw.randint(1, 12))) for _ in range(500)]
    for text in texts:
        expected = theirs.encode(text)
        for tokenizer in (ours, again):
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text
            assert tokenizer.decode(expected) == theirs.decode(expected), text
    assert ours("a")["input_ids"][0] == again("a")["input_ids"][0] == 1
    assert ours.eos_token_id == again.eos_token_id == 2
