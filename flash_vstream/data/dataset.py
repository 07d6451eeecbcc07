"""Training records as items: the conversation tokenized with its labels, and the visual that it is about."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from flash_vstream.data.record import Fields, MediaFolders, Record
from flash_vstream.data.survey import MODALITIES, Survey, survey
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.memory import digest
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.model.visuals import Digest, Features, Pixels, Visual
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

ASPECTS = ("plain", "pad")
CHARACTERS_PER_TOKEN = 4  # of English in Llama's tokenizer; lengths are compared with each other only
FRAMES_AT_ONCE = 16  # decoded frames held before they are preprocessed


class ConversationDataset(Dataset[dict[str, Any]]):
    """Items `{input_ids [L], labels [L]}`, with `visual` (Pixels, Features or Digest) if the record shows something.

    `conversation` is the prompt style, "plain" or "v1". The `aspect` "plain" crops images to a square, "pad" extends
    them to one in the mean colour; videos are always cropped. The last turns are left out to fit `max_length` tokens.
    `spec` describes the features that the model takes; None checks only the memory's grid. With `digests` the memory's
    digest of features is computed here. `overview` is the survey of these records, made here if it is needed and None.

    Raises ValueError if the aspect is unknown or digests do not fit the memory; on access, if the item cannot be made,
    with the record's id.
    """

    def __init__(
        self,
        records: Sequence[Fields],
        processor: VStreamProcessor,
        conversation: str,
        folders: MediaFolders,
        fps: float = 1.0,
        aspect: str = "plain",
        max_length: int | None = None,
        spec: FeatureSpec | None = None,
        digests: bool = False,
        overview: Survey | None = None,
    ) -> None:
        if aspect not in ASPECTS:
            raise ValueError(f"image aspect {aspect!r} is unknown: choose one of {', '.join(ASPECTS)}")
        if digests and processor.memory.mode != "star":
            raise ValueError(f"digests are of the memory of mode 'star', not {processor.memory.mode!r}: leave them out")
        self.records, self.processor, self.conversation, self.folders = records, processor, conversation, folders
        self.fps, self.aspect, self.max_length, self.digests = fps, aspect, max_length, digests
        self.spec = spec or FeatureSpec(processor.memory.spatial_size)
        if overview is not None:
            self._survey = overview  # in place of the cached property

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        fields = self.records[index]
        try:
            record = Record.parse(fields, self.folders, self.fps)
            visual, n_frames = self._visual(record)
            input_ids, labels = self.processor.encode_conversation(
                record.turns, n_frames, self.conversation, self.max_length
            )
        except ValueError as error:
            name = f"record {fields.get('id')!r}"
            raise ValueError(str(error) if name in str(error) else f"{name}: {error}") from error
        item = {"input_ids": input_ids, "labels": labels}
        return item if visual is None else {**item, "visual": visual}

    def lengths(self) -> NDArray[np.int32]:
        """The approximate number of tokens of each item, int32 [n], estimated without opening any media."""
        found = self._survey
        counts, places = np.unique(found.n_frames, return_inverse=True)
        visual = np.array([self.processor.memory.num_tokens(count) if count else 0 for count in counts], np.int64)
        lengths = visual[places] + found.n_characters // CHARACTERS_PER_TOKEN + 1
        return (lengths if self.max_length is None else np.minimum(lengths, self.max_length)).astype(np.int32)

    def modalities(self) -> list[str]:
        """What each item shows: "video", "image" or "text"."""
        return [MODALITIES[kind] for kind in self._survey.kinds]

    @functools.cached_property
    def _survey(self) -> Survey:
        return survey(self.records, self.folders, self.fps, self.conversation, open_files=False)

    def _visual(self, record: Record) -> tuple[Visual | None, list[int]]:
        """What a record shows, and the number of its frames."""
        if record.kind is None:
            return None, []
        if record.has_features:
            features = read_features(record, self.spec, self.fps)
            if self.digests:  # in float32, as the model takes features in training
                return Digest(*digest(self.processor.memory, features.float())), [len(features)]
            return Features(features), [len(features)]
        pad = self.aspect == "pad" and record.kind == "image"
        frames = decode_frames(record, self.fps)
        stacks = iter(lambda: list(itertools.islice(frames, FRAMES_AT_ONCE)), [])  # a long video is never held whole
        pixels = torch.cat([self.processor.frames_to_pixels(np.stack(stack), pad=pad) for stack in stacks])
        return Pixels(pixels), [len(pixels)]


def read_features(record: Record, spec: FeatureSpec, fps: float) -> Tensor:
    """The features [T, P, D] of the frames of a record that has features.

    Raises ValueError if the file cannot be read, does not fit the model or the rate, or ends before the window.
    """
    assert record.path is not None
    file = open_features(record.path, record.kind, spec, fps)
    if record.kind == "image":
        return file.read()
    features = file.read(record.window.start, record.window.stop)[:: record.window.step]
    _check_reached(record, len(features))
    return features


def open_features(path: Path, kind: str | None, spec: FeatureSpec, fps: float) -> FeatureFile:
    """The open feature file of an image or a video.

    Raises ValueError if it cannot be read, does not fit the model or the rate, or is of the other kind.
    """
    file = FeatureFile(path)
    file.require(spec, fps if kind == "video" else None)
    if kind == "video" and file.is_image:
        raise ValueError(
            f"feature file {path} is of an image, and the record shows a video: extract an animated GIF or WebP again"
            " with --animations video"
        )
    if kind == "image" and len(file) > 1:
        raise ValueError(f"feature file {path} has {len(file)} frames, and the record shows an image: extract it again")
    return file


def decode_frames(record: Record, fps: float) -> Iterator[NDArray[np.uint8]]:
    """Frames, uint8 RGB [H, W, 3], of a record that shows an image or a video.

    Raises ValueError if the file cannot be read or ends before the record's window.
    """
    assert record.path is not None
    if record.kind == "image":
        yield read_image(record.path)
        return
    window, count = record.window, 0
    end = None if window.stop is None else window.stop / fps
    for frame, _ in read_frames(str(record.path), fps / window.step, start=window.start / fps, end=end):
        yield frame
        count += 1
    _check_reached(record, count)


def _check_reached(record: Record, count: int) -> None:
    if count < record.window.needed:
        raise ValueError(f"{record.path} ends before the second that record {record.id!r} is about")
