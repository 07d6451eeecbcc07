"""VStream-QA: hour-long first-person videos (Ego4D) and films (MovieNet), asked afterwards or while they run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from flash_vstream.eval.benchmarks.base import PAPER_JUDGE, RETEST_JUDGE, Benchmark, Published
from flash_vstream.eval.benchmarks.rows import Row, common_row, find_file, read_objects, read_text
from flash_vstream.eval.sample import Sample

KEY_FRAME = re.compile(r"shot_(\d+)_img_(\d+)(\.\w+)?")
TIMES = ("start_time", "end_time")
COPIED = ("answer_type", "duration", "system")  # fields that are copied if the download has them


class KeyFrames:
    """Times in films, which are given as names of key frames.

    A film is watched as its key frames, in the order of their numbers, one a second: the frame at position k of that
    order is in view from k to k + 1 s. (The number of the shot is no position: a shot has several frames, and clips
    begin anywhere.) Evidence starts when its first frame appears; a question is asked after the last frame of it.
    The folders of frames are searched in `roots`.
    """

    def __init__(self, part: str, roots: list[Path]) -> None:
        kinds = (f"{part}_frames", f"{part}_videos", "videos", "")
        self._places = [root / kind for root in roots for kind in kinds]
        self._positions: dict[str, dict[tuple[int, int], int]] = {}

    def seconds(self, video_id: str, name: str, is_end: bool, where: str) -> float:
        """When the named frame appears, or with `is_end` has been seen. Raises ValueError if it is missing."""
        if video_id not in self._positions:
            self._positions[video_id] = self._list(video_id)
        positions = self._positions[video_id]
        if not positions:
            raise ValueError(
                f"{where} is the key frame {name!r}, but the frames of {video_id!r} are missing: unpack them to"
                f" {self._places[0] / video_id}"
            )
        position = positions.get(_frame_number(name))
        if position is None:
            raise ValueError(
                f"{where} is the key frame {name!r}, which is not among the {len(positions)} of {video_id!r}: unpack"
                " the frames of this film again"
            )
        return float(position + is_end)

    def _list(self, video_id: str) -> dict[tuple[int, int], int]:
        folder = next((place / video_id for place in self._places if (place / video_id).is_dir()), None)
        if folder is None:
            return {}
        numbers = {_frame_number(path.name) for path in folder.iterdir() if KEY_FRAME.fullmatch(path.name)}
        return {number: position for position, number in enumerate(sorted(numbers))}


def _frame_number(name: str) -> tuple[int, int]:
    match = KEY_FRAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2])


def convert(part: str, benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test_qa_<part>.json, flat, or <part>_oe.json, [{video_id, conversations: [{question, answer, times}]}].

    A video that is not there by its video_id, but by the name in its video_path, gets that name.
    """
    path = find_file(source, benchmark.questions[0], f"{part}_oe.json")
    key_frames = KeyFrames(part, [benchmark.folder(data_root), source])
    names = (*COPIED, *TIMES) if benchmark.realtime else COPIED
    rows = []
    stems: dict[str, str] = {}  # video_id -> name in its video_path
    for where, row in _flat(path):
        video_id = read_text(row, "video_id", where)
        stems[video_id] = PurePosixPath(str(row.get("video_path") or video_id)).stem
        more = {name: row[name] for name in names if row.get(name) is not None}
        for name in TIMES:
            if isinstance(more.get(name), str) and KEY_FRAME.fullmatch(more[name]):
                more[name] = key_frames.seconds(video_id, more[name], name == "end_time", f"{where}: {name}")
        rows.append(common_row(read_text(row, "id", where), video_id, row, where, **more))
    there = benchmark.find_media(
        [Sample(benchmark.tag, "", name, "", "") for name in {*stems, *stems.values()}], data_root, allow_missing=True
    )
    renamed = {video_id: name for video_id, name in stems.items() if video_id not in there and name in there}
    return [row | {"video_id": renamed.get(row["video_id"], row["video_id"])} for row in rows], path


def _flat(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with one question each; a question of a conversation gets the id <video_id>_<its number from 0>."""
    for where, row in read_objects(path):
        if "conversations" not in row:
            yield where, row
            continue
        video_id, turns = read_text(row, "video_id", where), row["conversations"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{where} has conversations that are no list of objects: get it again")
        shared: Row = {name: row[name] for name in ("video_id", "video_path", "duration") if name in row}
        for number, turn in enumerate(turns):
            yield f"conversation {number} in {where}", {"id": f"{video_id}_{number}", **shared, **turn}


def _part(
    tag: str, name: str, part: str, n_questions: int, n_videos: tuple[int, ...], *published: Published
) -> Benchmark:
    """Ego4D or MovieNet: both share a folder; each has its own question file and, as in the release, its own media."""
    realtime = tag.startswith("realtime_")
    return Benchmark(
        tag,
        name,
        ("vstream-realtime" if realtime else "vstream",),
        n_questions,
        n_videos,
        realtime=realtime,
        questions=(f"test_qa_{part}.json",),
        features=(f"{part}_video_features", "video_features"),
        videos=(f"{part}_videos", "videos", f"{part}_frames"),
        published=published,
        convert=partial(convert, part),
    )


def _both(accuracy: float, score: float, retest: float) -> tuple[Published, Published]:
    return Published(accuracy, score, PAPER_JUDGE), Published(retest, None, RETEST_JUDGE)


# RVS-Ego is distributed as 10 videos of an hour, and in the release as 99 clips of the same questions.
BENCHMARKS = (
    _part("vsego4d", "VS-Ego", "ego4d", 1_465, (246,), Published(59.0, 3.9, PAPER_JUDGE)),
    _part("vsmovienet", "VS-Movie", "movienet", 1_905, (83,), Published(56.1, 3.4, PAPER_JUDGE)),
    _part("realtime_vsego4d", "RVS-Ego", "ego4d", 1_465, (10, 99), *_both(57.3, 4.0, 52.28)),
    _part("realtime_vsmovienet", "RVS-Movie", "movienet", 1_905, (22,), *_both(53.1, 3.3, 42.41)),
)
