"""LLaVA-style records as training items: the conversation tokenized with its labels, and what there is to see."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from flash_vstream.data.features import frames_before, read_features
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.video import read_frames

PLACEHOLDERS = ("<image>", "<video>")


def load_records(path: Path) -> list[dict[str, Any]]:
    """Read a JSON list of records.

    Raises:
        ValueError: the file is missing, not JSON, not a list of objects, or empty.
    """
    if not path.is_file():
        raise ValueError(f"data file {path} is missing: see data/README.md for where it comes from")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"data file {path} is not JSON ({error}): fetch or build it again") from error
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"data file {path} must hold a non-empty list of records")
    return records


class ConversationDataset(Dataset[dict[str, Any]]):
    """Items `{input_ids [L], labels [L], visual_features [T, P, D] or pixel_values [T, 3, S, S]}`.

    A record is `{id, conversations: [{from: human|gpt, value}], video?: path, time?, end_time?: seconds}`. With `time`
    one frame is seen, with `end_time` those in [0, end_time). Features are taken where `feature_folder` is given, else
    frames are decoded.
    """

    def __init__(
        self,
        records: list[dict[str, Any]],
        processor: VStreamProcessor,
        conversation: str,
        video_folder: Path,
        feature_folder: Path | None = None,
        fps: float = 1.0,
    ) -> None:
        self.records, self.processor, self.conversation = records, processor, conversation
        self.video_folder, self.feature_folder, self.fps = video_folder, feature_folder, fps

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        item = self._visual(record) if "video" in record else {}
        n_frames = [len(frames) for frames in item.values()]
        turns = conversation_turns(record)
        try:
            item["input_ids"], item["labels"] = self.processor.encode_conversation(
                turns, n_frames=n_frames, conversation=self.conversation
            )
        except ValueError as error:
            raise ValueError(f"record {record.get('id')!r}: {error}") from error
        return item

    def _visual(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the record shows, from features or frames: one frame (`time`), the beginning (`end_time`), or all."""
        start, stop = 0, None
        if "time" in record:
            start = int(record["time"] * self.fps)
            stop = start + 1
        elif "end_time" in record:
            stop = frames_before(record["end_time"], self.fps)
        if self.feature_folder is not None:
            path = (self.feature_folder / record["video"]).with_suffix(".safetensors")
            return {"visual_features": read_features(path, start, stop)[0]}
        end = None if stop is None else stop / self.fps
        decoded = read_frames(str(self.video_folder / record["video"]), self.fps, start=start / self.fps, end=end)
        return {"pixel_values": self.processor.frames_to_pixels(np.stack([frame for frame, _ in decoded]))}


def conversation_turns(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The (question, answer) turns of a record, placeholders moved to the front of the first question.

    Raises:
        ValueError: turns missing or out of order, or a placeholder in an answer; the record's id is named.
    """
    name, turns = record.get("id"), record.get("conversations")
    if not turns or len(turns) % 2:
        raise ValueError(f"record {name!r} has {len(turns or [])} turns: it needs pairs of human and gpt")
    if [turn["from"] for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"record {name!r} has turns {[turn['from'] for turn in turns]}: they must be human, gpt, ...")
    texts = [turn["value"] for turn in turns]
    for answer in texts[1::2]:
        if any(mark in answer for mark in PLACEHOLDERS):
            raise ValueError(f"record {name!r} has an image placeholder in an answer: remove it")
    questions = texts[0::2]
    for mark in PLACEHOLDERS:
        questions = [question.replace(mark, "").strip() for question in questions]
    if "video" in record:
        questions[0] = f"{PLACEHOLDERS[0]}\n{questions[0]}"
    return list(zip(questions, texts[1::2], strict=True))
