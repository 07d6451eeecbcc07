"""LLaVA-style records as training items: the conversation tokenized with its labels, and what there is to see."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from flash_vstream.data.media import FEATURE_SUFFIX, MediaFolders, batches, window_of
from flash_vstream.data.records import Record, conversation_turns, visual_kind
from flash_vstream.features.file import FeatureSpec
from flash_vstream.memory import digest
from flash_vstream.model.processing import VStreamProcessor

ASPECTS = ("plain", "pad")
MODALITIES = ("text", "image", "video")
CHARACTERS_PER_TOKEN = 4  # of English in Llama's tokenizer; lengths are compared with each other only
FRAMES_AT_ONCE = 16  # decoded frames held before they are made into pixels


class ConversationDataset(Dataset[dict[str, Any]]):
    """Items `{input_ids [L], labels [L]}`, with `visual_features [T, P, D]`, `visual_digests` or `pixel_values
    [T, 3, S, S]` if they show something.

    records: see `records`; which frames of a video are seen, see `media`. conversation: prompt style, "plain" or "v1".
    fps: frames a second at which videos are decoded, or their features were made. aspect: "plain" crops pictures to a
    square, "pad" puts them on one of the mean colour (videos are always cropped; features are taken as they are).
    max_length: turns past this many tokens are left out. spec: the features that the model
    takes; None checks only the memory's grid. digests: do here what the memory
    does with features one frame after the other; only for a memory of mode "star".

    Raises:
        ValueError: an unknown aspect; digests of another mode; and, on access, whatever keeps an item from being made,
            with the record's id.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: VStreamProcessor,
        conversation: str,
        folders: MediaFolders,
        fps: float = 1.0,
        aspect: str = "plain",
        max_length: int | None = None,
        spec: FeatureSpec | None = None,
        digests: bool = False,
    ) -> None:
        if aspect not in ASPECTS:
            raise ValueError(f"image aspect {aspect!r} is unknown: choose one of {', '.join(ASPECTS)}")
        if digests and processor.memory.mode != "star":
            raise ValueError(f"digests are of the memory of mode 'star', not {processor.memory.mode!r}: leave them out")
        self.records, self.processor, self.conversation, self.folders = records, processor, conversation, folders
        self.fps, self.aspect, self.max_length, self.digests = fps, aspect, max_length, digests
        self.spec = spec or FeatureSpec(processor.memory.spatial_size)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        try:
            item, n_frames = self._visual(record)
            item["input_ids"], item["labels"] = self.processor.encode_conversation(
                conversation_turns(record), n_frames, self.conversation, self.max_length
            )
        except ValueError as error:
            raise ValueError(_named(record, error)) from error
        return item

    def lengths(self) -> NDArray[np.int32]:
        """About how many tokens each item has, int32 [n], guessed from its text and times without opening any media."""
        return self._outline[0]

    def modalities(self) -> list[str]:
        """What each item shows: "video", "image" or "text"."""
        return [MODALITIES[number] for number in self._outline[1]]

    @functools.cached_property
    def _outline(self) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Lengths and modalities, in one pass over the records."""
        lengths, modalities = np.empty(len(self), np.int32), np.empty(len(self), np.int8)
        for index, record in enumerate(self.records):
            turns = conversation_turns(record)
            text = sum(len(answer) if self.conversation == "plain" else len(ask) + len(answer) for ask, answer in turns)
            kind = visual_kind(record)
            visual = 0
            if kind is not None:
                n_frames = 1 if kind == "image" else window_of(record, self.fps).n_frames
                visual = self.processor.memory.num_tokens(n_frames)
            length = visual + text // CHARACTERS_PER_TOKEN + 1
            lengths[index] = length if self.max_length is None else min(length, self.max_length)
            modalities[index] = MODALITIES.index(kind or "text")
        return lengths, modalities

    def _visual(self, record: Record) -> tuple[dict[str, Any], list[int]]:
        """What a record shows, and of how many frames."""
        path = self.folders.path(record)
        if path is None:
            return {}, []
        if path.suffix == FEATURE_SUFFIX:
            features = self.folders.features(record, self.fps, self.spec)
            if self.digests:  # float32, as the model takes features in training
                return {"visual_digests": digest(self.processor.memory, features.float())}, [len(features)]
            return {"visual_features": features}, [len(features)]
        pad = self.aspect == "pad" and visual_kind(record) == "image"
        parts = batches(self.folders.frames(record, self.fps), FRAMES_AT_ONCE)
        pixels = torch.cat([self.processor.frames_to_pixels(part, pad=pad) for part in parts])
        return {"pixel_values": pixels}, [len(pixels)]


def check_limits(video_fps: float, max_length: int | None) -> None:
    """Raises ValueError for a rate or a length that nothing has."""
    if not 0 < video_fps < math.inf:
        raise ValueError(f"video_fps is {video_fps:g}: give a number of frames a second above 0")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}: give 1 or more tokens, or leave it out")


def _named(record: Record, error: ValueError) -> str:
    """The message, with the record in front unless it is named already."""
    start = f"record {record.get('id')!r}"
    return str(error) if start in str(error) else f"{start}: {error}"
