"""Text and frames to model inputs: the only place where a visual becomes placeholders.

A processor holds the tokenizer, the frame preprocessing and the memory configuration, because a visual takes as many
placeholders as the memory gives tokens. `<image>` stands for a visual in text. It need not be in the tokenizer's
vocabulary: the text is split on it and each piece is tokenized on its own, as in the release.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from flash_vstream.files import write_text
from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.files import read_json, resolve_folder
from flash_vstream.model.checkpoints.published import is_published
from flash_vstream.model.checkpoints.weights import changed_memory
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.plain_text import MARK, PlainText
from flash_vstream.model.preprocessing import FramePreprocessor
from flash_vstream.model.prompts import STYLES, V1_SYSTEM, VISUAL_TOKEN, Conversation, Turn, write
from flash_vstream.model.tokenizer import load_tokenizer

IGNORED = -100
PROCESSOR_FILE = "processor_config.json"
FRAMES_FILE = "preprocessor_config.json"  # of a vision tower as published
PROCESSOR_FIELDS = {"frames", "memory", "visual_token_id", "conversation"}


class VStreamProcessor(ProcessorMixin):
    """Makes the inputs of `VStreamForConditionalGeneration`.

    `frames` may be the contents of a `preprocessor_config.json`, and `memory` a dict; memory and `visual_token_id` must
    be the model's. `conversation` is the default style: "v1", "plain" or "chat_template" (the tokenizer's own). Raises
    ValueError unless the tokenizer is a fast one (with character offsets), the style is known and the dicts fit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        frames: FramePreprocessor | dict[str, Any],
        memory: MemoryConfig | dict[str, Any],
        visual_token_id: int,
        conversation: str = "v1",
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} gives no character offsets: use its fast version")
        if conversation not in STYLES:
            raise ValueError(f"conversation style {conversation!r} is unknown: choose one of {', '.join(STYLES)}")
        super().__init__(tokenizer)
        self.frames = frames if isinstance(frames, FramePreprocessor) else FramePreprocessor.from_hf(frames)
        self.memory = memory if isinstance(memory, MemoryConfig) else MemoryConfig.from_dict(memory)
        self.visual_token_id = visual_token_id
        self.conversation = conversation
        self._plain_text = PlainText(tokenizer)
        # Measured, because the ids around a text differ between kinds and versions of tokenizers.
        self._start_ids: list[int] = _start_ids(tokenizer)

    def __call__(
        self,
        text: str | Sequence[str],
        n_frames: Sequence[int] = (),
        padding_side: str = "right",
        **kwargs: Any,
    ) -> BatchFeature:
        """Texts and the number of frames of each of their `<image>`, in order -> input_ids and attention_mask [B, L].

        Control tokens in a text are encoded as such, unless `prompt` or `plain` marked them. The mask is 0 on padding.
        Raises ValueError unless `n_frames` has one number for each `<image>`, and for options that are not known.
        """
        if kwargs:
            raise ValueError(f"the processor takes text, n_frames and padding_side, not {', '.join(kwargs)}")
        if padding_side not in ("left", "right"):
            raise ValueError(f'padding_side is {padding_side!r}: choose "left" or "right"')
        texts = [text] if isinstance(text, str) else list(text)
        counts = _counts_by_text(texts, n_frames)
        rows = [self._encode(text, own)[0] for text, own in zip(texts, counts, strict=True)]
        length = max(map(len, rows), default=0)
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(length - len(row), length) if padding_side == "left" else slice(len(row))
            input_ids[number, place] = torch.tensor(row, dtype=torch.long)
            attention_mask[number, place] = 1
        return BatchFeature({"input_ids": input_ids, "attention_mask": attention_mask})

    @property
    def pad_token_id(self) -> int:
        """The id that pads a batch, hidden by the mask: the tokenizer's pad, unknown or end token, or 0."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.unk_token_id, self.tokenizer.eos_token_id)
        return next((token for token in ids if token is not None), 0)

    def frames_to_pixels(self, frames: Tensor | np.ndarray, pad: bool = False) -> Tensor:
        """Frames uint8 RGB [T, H, W, 3] -> float32 [T, 3, S, S]; `pad` keeps the whole picture, on a square canvas."""
        return self.frames(frames, pad=pad)

    def prompt(
        self,
        question: str | Sequence[Turn],
        conversation: str | None = None,
        with_visual: bool = True,
        system: str = "",
    ) -> str:
        """The text that the model continues, from a question or from turns of which the last answer is None.

        An instruction (`system`) follows the conversation's own, as in the release; if the conversation has none, it
        precedes the first question. Control tokens in the texts are marked as plain text (see `plain`).
        """
        turns: list[Turn] = [(question, None)] if isinstance(question, str) else list(question)
        text = self._write(turns, conversation, int(with_visual)).text
        if not system:
            return text
        if text.startswith(V1_SYSTEM):
            return f"{V1_SYSTEM} {self.plain(system)}{text.removeprefix(V1_SYSTEM)}"
        turns[0] = (f"{system}\n{turns[0][0]}", turns[0][1])
        return self._write(turns, conversation, int(with_visual)).text

    def plain(self, text: str) -> str:
        """Somebody's words for a prompt: `</s>` and other control tokens in them are marked to be encoded as text."""
        return self._plain_text.mark(text)

    def encode_conversation(
        self,
        turns: Sequence[Turn],
        n_frames: Sequence[int] = (),
        conversation: str | None = None,
        max_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Answered turns -> (input_ids [L], labels [L]): labels are the ids of the answers, and -100 elsewhere.

        An answer is learnt with its end token ("plain": the caption with its newline). Past `max_length` tokens, whole
        turns are dropped from the end, so that neither a visual nor an answer is cut. Raises ValueError if no answer
        remains, or if the first turn alone exceeds `max_length`.
        """
        turns = list(turns)
        while True:
            text, answers = self._write(turns, conversation, len(n_frames))
            if all(not answer or not answer.strip() for _, answer in turns):
                raise ValueError("this conversation has no answer to learn: give at least one that is not empty")
            ids, starts = self._encode(text, list(n_frames))
            if max_length is None or len(ids) <= max_length:
                break
            # Tokens can change where the text is cut, so the shortened conversation is tokenized again.
            fitting = sum(bisect.bisect_left(starts, end) <= max_length for _, end in answers)
            turns = turns[: min(fitting, len(turns) - 1)]
            if not turns:
                raise ValueError(f"the first turn exceeds max_length {max_length}: raise it, or drop the conversation")
        input_ids = torch.tensor(ids)
        labels = torch.full_like(input_ids, IGNORED)
        for begin, end in answers:
            first, last = bisect.bisect_left(starts, begin), bisect.bisect_left(starts, end)
            labels[first:last] = input_ids[first:last]
        return input_ids, labels

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> str:
        """Token ids [L] -> text without placeholders, and without special tokens unless wanted."""
        ids = token_ids.tolist() if isinstance(token_ids, Tensor) else [int(token) for token in token_ids]
        words = [token for token in ids if token not in (self.visual_token_id, IGNORED)]
        return self.tokenizer.decode(words, skip_special_tokens=skip_special_tokens, **kwargs)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        """Token ids [B, L] -> texts."""
        return [self.decode(row, skip_special_tokens, **kwargs) for row in sequences]

    def _write(self, turns: Sequence[Turn], style: str | None, n_visuals: int) -> Conversation:
        turns = [(self.plain(question), answer and self.plain(answer)) for question, answer in turns]
        template = self.tokenizer.apply_chat_template if self.tokenizer.chat_template else None
        end = self.tokenizer.eos_token or ""
        return write(turns, style or self.conversation, n_visuals, end_of_answer=end, apply_chat_template=template)

    def _encode(self, text: str, n_frames: list[int]) -> tuple[list[int], list[int]]:
        """The token ids of a text, and for each the character where it starts (never decreasing)."""
        pieces = text.split(VISUAL_TOKEN)
        if any(not piece for piece in pieces[1:-1]):
            raise ValueError(f"two {VISUAL_TOKEN} are adjacent and would merge: put text between them")
        bos = self.tokenizer.bos_token
        ids = [] if bos and text.startswith(bos) else list(self._start_ids)
        starts = [-1] * len(ids)
        offset = 0
        for number, piece in enumerate(pieces):
            if number:
                count = self.memory.num_tokens(n_frames[number - 1])
                ids += [self.visual_token_id] * count
                starts += [offset - len(VISUAL_TOKEN)] * count
            if MARK in piece:
                marked_ids, marked_starts = self._plain_text.encode(piece)
                ids += marked_ids
                starts += [offset + start for start in marked_starts]
            elif piece:
                encoding = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
                ids += encoding["input_ids"]
                starts += [offset + start for start, _ in encoding["offset_mapping"]]
            offset += len(piece) + len(VISUAL_TOKEN)
        return ids, starts

    def to_dict(self) -> dict[str, Any]:
        """The contents of processor_config.json."""
        return {
            "processor_class": type(self).__name__,
            "frames": self.frames.to_dict(),
            "memory": self.memory.to_dict(),
            "visual_token_id": self.visual_token_id,
            "conversation": self.conversation,
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """Write the tokenizer's files and processor_config.json; returns their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = list(self.tokenizer.save_pretrained(folder))
        write_text(folder / PROCESSOR_FILE, json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")
        return [*written, str(folder / PROCESSOR_FILE)]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        memory: MemoryConfig | None = None,
        memory_mode: str | None = None,
        **kwargs: Any,
    ) -> VStreamProcessor:
        """Open the processor of a native or published checkpoint, a folder or hub id.

        `memory` replaces the checkpoint's memory configuration, `memory_mode` only its mode. Raises ValueError, naming
        the file, for one that is missing or damaged.
        """
        folder = resolve_folder(Path(pretrained_model_name_or_path), kwargs.get("revision"))
        file = folder / PROCESSOR_FILE
        if file.is_file():
            fields = read_json(file)
            fields.pop("processor_class", None)
            if set(fields) != PROCESSOR_FIELDS:
                wrong = ", ".join(sorted(set(fields) ^ PROCESSOR_FIELDS))
                raise ValueError(f"{file} has missing or unknown fields, {wrong}: save the processor again")
            tokenizer = load_tokenizer(folder)
            try:
                processor = cls(tokenizer, **fields)
            except (AttributeError, TypeError, ValueError) as error:  # a field of a wrong type or value
                raise ValueError(f"{file} describes no processor ({error}): save the processor again") from error
        elif (folder / "config.json").is_file() and is_published(read_json(folder / "config.json")):
            processor = cls(load_tokenizer(folder), **_published_fields(folder))
        else:
            raise ValueError(f"{folder} has no {PROCESSOR_FILE}: save the processor to it as well")
        processor.memory = changed_memory(processor.memory, memory, memory_mode)
        return processor


def _published_fields(folder: Path) -> dict[str, Any]:
    """The fields of a published checkpoint's processor; its image preprocessing is in the vision tower's folder."""
    config = VStreamConfig.from_pretrained(folder)
    tower = Path(config.vision_tower_path)
    frames = FramePreprocessor(size=config.frame_size, crop_size=config.frame_size)
    if (tower / FRAMES_FILE).is_file():
        frames = read_frame_preprocessor(tower)
    return {"frames": frames, "memory": config.memory, "visual_token_id": config.visual_token_id}


def read_frame_preprocessor(tower: Path) -> FramePreprocessor:
    """The preprocessing in a vision tower's folder. Raises ValueError that names the file."""
    contents = read_json(tower / FRAMES_FILE)
    try:
        return FramePreprocessor.from_hf(contents)
    except ValueError as error:
        raise ValueError(f"{tower / FRAMES_FILE}: {error}") from error


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that the tokenizer puts in front of every text (Llama: its BOS; Qwen: none)."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    return full[: full.index(ids[0])] if ids else []


def _counts_by_text(texts: list[str], n_frames: Sequence[int]) -> list[list[int]]:
    """Split the frame counts of all visuals by text. Raises ValueError unless there is one for each `<image>`."""
    wanted = [text.count(VISUAL_TOKEN) for text in texts]
    if sum(wanted) != len(n_frames):
        raise ValueError(
            f"the text holds {sum(wanted)} {VISUAL_TOKEN} but n_frames has {len(n_frames)} numbers: give one for each"
        )
    if any(count < 1 for count in n_frames):
        raise ValueError(f"n_frames holds {min(n_frames)}: a visual has at least 1 frame")
    remaining = iter(n_frames)
    return [[next(remaining) for _ in range(count)] for count in wanted]
