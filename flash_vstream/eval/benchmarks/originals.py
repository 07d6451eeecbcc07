"""Reads the original downloads of the benchmarks, as their authors publish them, into rows of the common form.

The common form is {id, video_id, question, answer, answer_type?, start_time?, end_time?, duration?, system?}. Every
fault is a ValueError that names the row and the file; nothing is left out.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flash_vstream.eval.benchmarks.base import Benchmark
from flash_vstream.eval.benchmarks.rows import read_rows, read_text

NEXT_COLUMNS = ("video", "question", "answer", "qid", "type")
KEY_FRAME = re.compile(r"shot_(\d+)_img_(\d+)(\.\w+)?")
CARRIED = ("answer_type", "start_time", "end_time", "duration", "system")  # as they are, where a set has them
Row = dict[str, Any]


def read_original(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """The rows of a download, and the file that their numbers count in.

    source: a folder that holds the files, at any depth. data_root: where key frames are looked for, besides `source`.
    """
    if not source.is_dir():
        raise ValueError(f"--source {source} is not a folder: give the one with the original files of {benchmark.name}")
    if benchmark.tag in ("vsego4d", "vsmovienet", "realtime_vsego4d", "realtime_vsmovienet"):
        return _vstream_qa(benchmark, source, data_root)
    return READERS[benchmark.tag](source)


def _activitynet(source: Path) -> tuple[list[Row], Path]:
    """test_q.json {video_name, question, question_id "v_<id>_<n>"} and test_a.json {answer, type, question_id}."""
    path, answer_path = _find(source, "test_q.json"), _find(source, "test_a.json")
    answers: dict[str, tuple[str, Row]] = {}
    for where, row in _objects(answer_path):
        question_id = read_text(row, "question_id", where)
        if question_id in answers:
            raise ValueError(f"{where} answers {question_id!r} again: an id may occur only once")
        answers[question_id] = (where, row)
    rows = []
    for where, row in _objects(path):
        question_id, name = read_text(row, "question_id", where), read_text(row, "video_name", where)
        video_id = question_id.rpartition("_")[0]
        if video_id not in (name, f"v_{name}"):
            raise ValueError(f"{where} has the question_id {question_id!r} but the video_name {name!r}: get it again")
        if question_id not in answers:
            raise ValueError(f"{where} asks {question_id!r}, which {answer_path} does not answer: get both again")
        answered, answer = answers[question_id]
        kind = read_text(answer, "type", answered)
        text = read_text(answer, "answer", answered)
        rows.append(_row(question_id, video_id, row, where, answer=text, answer_type=kind))
    for question_id in answers.keys() - {row["id"] for row in rows}:
        where = answers[question_id][0]
        raise ValueError(f"{where} answers {question_id!r}, which {path} does not ask: get both again")
    return rows, path


def _msvd(source: Path) -> tuple[list[Row], Path]:
    """test_qa.json {video_id: int N, question, id, answer} and youtube_mapping.txt with lines "<name> vid<N>"."""
    path, mapping_path = _find(source, "test_qa.json"), _find(source, "youtube_mapping.txt")
    names: dict[str, str] = {}
    for number, line in enumerate(mapping_path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 2 or not re.fullmatch(r"vid\d+", words[1])):
            raise ValueError(f"line {number} of {mapping_path} is {line!r}: it must read like NAME vid7")
        if words:
            names[words[1]] = words[0]
    rows = []
    for where, row in _objects(path):
        key = f"vid{_whole_number(row, 'video_id', where)}"
        if key not in names:
            raise ValueError(f"{where} is about {key}, which {mapping_path} does not name: get both again")
        rows.append(_row(read_text(row, "id", where), names[key], row, where))
    return rows, path


def _msrvtt(source: Path) -> tuple[list[Row], Path]:
    """test_qa.json {video_id: int N, question, id, answer}; the videos are called video<N>."""
    path = _find(source, "test_qa.json")
    rows = []
    for where, row in _objects(path):
        video_id = f"video{_whole_number(row, 'video_id', where)}"
        rows.append(_row(read_text(row, "id", where), video_id, row, where))
    return rows, path


def _nextqa(source: Path) -> tuple[list[Row], Path]:
    """test.csv (open-ended) with NEXT_COLUMNS, and map_vid_vidorID.json {"<video>": "<folder>/<video>"}."""
    path, map_path = _find(source, "test.csv"), _find(source, "map_vid_vidorID.json")
    folders = _read_json(map_path)
    if not isinstance(folders, dict):
        raise ValueError(f"{map_path} must hold an object of video ids: get it again")
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or ()
        if "a0" in columns:
            raise ValueError(f"{path} is the multiple-choice set (it has a column a0): get the open-ended one, NExT-OE")
        if lacking := [name for name in NEXT_COLUMNS if name not in columns]:
            raise ValueError(f"{path} has no column {', '.join(lacking)}: get the test.csv of NExT-OE")
        for number, row in enumerate(table, start=1):
            where = f"row {number} of {path}"
            if None in row or None in row.values():
                raise ValueError(f"{where} has not as many fields as the header has columns: get it again")
            video = read_text(row, "video", where)
            if not isinstance(folders.get(video), str):
                raise ValueError(f"{where} is about video {video!r}, which {map_path} does not name: get both again")
            item_id = f"{video}_{read_text(row, 'qid', where)}"
            rows.append(_row(item_id, folders[video], row, where, answer_type=read_text(row, "type", where)))
    return rows, path


READERS: dict[str, Callable[[Path], tuple[list[Row], Path]]] = {
    "actnet": _activitynet,
    "msvd": _msvd,
    "msrvtt": _msrvtt,
    "nextoe": _nextqa,
}


def _vstream_qa(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """test_qa_<set>.json, flat, or <set>_oe.json, [{video_id, conversations: [{question, answer, times}]}]."""
    part = benchmark.questions.removeprefix("test_qa_").removesuffix(".json")
    path = _find(source, benchmark.questions, f"{part}_oe.json")
    key_frames = KeyFrames(part, [benchmark.folder(data_root), source])
    rows = []
    for where, row in _flat(path):
        video_id = read_text(row, "video_id", where)
        extra = {name: row[name] for name in CARRIED if row.get(name) is not None}
        if benchmark.realtime:
            for name, is_end in (("start_time", False), ("end_time", True)):
                if isinstance(extra.get(name), str) and KEY_FRAME.fullmatch(extra[name]):
                    extra[name] = key_frames.seconds(video_id, extra[name], is_end, f"{where}: {name}")
        rows.append(_row(read_text(row, "id", where), video_id, row, where, **extra))
    return rows, path


def _flat(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with one question each; a question of a conversation gets the id <video_id>_<its number from 0>."""
    for where, row in _objects(path):
        if "conversations" not in row:
            yield where, row
            continue
        video_id, turns = read_text(row, "video_id", where), row["conversations"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{where} has conversations that are no list of objects: get it again")
        shared: Row = {name: row[name] for name in ("video_id", "duration") if name in row}
        for number, turn in enumerate(turns):
            yield f"conversation {number} in {where}", {"id": f"{video_id}_{number}", **shared, **turn}


class KeyFrames:
    """Times of films that are given as the name of a key frame.

    A film is watched as its key frames, in the order of their numbers, one a second: the frame at sorted position k is
    in view from k to k + 1 s. (The shot's number itself is no position: a shot has several frames, and clips begin
    anywhere.) Evidence starts when its first frame appears, and a question is asked when its last frame has been seen.
    """

    def __init__(self, part: str, roots: list[Path]) -> None:
        kinds = (f"{part}_frames", f"{part}_videos", "videos", "")
        self._places = [root / kind for root in roots for kind in kinds]
        self._positions: dict[str, dict[tuple[int, int], int]] = {}

    def seconds(self, video_id: str, name: str, is_end: bool, where: str) -> float:
        """When the named frame appears, or with is_end has been seen. Raises ValueError where it is not there."""
        if video_id not in self._positions:
            self._positions[video_id] = self._list(video_id)
        positions = self._positions[video_id]
        if not positions:
            raise ValueError(
                f"{where} is the key frame {name!r}, but the frames of {video_id!r} are not there: unpack them to"
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


def _row(item_id: str, video_id: str, row: Row, where: str, **extra: Any) -> Row:
    """A row of the common form; question and, unless it is in `extra`, answer are those of the original row."""
    answer = extra.pop("answer", None) or read_text(row, "answer", where)
    return {
        "id": item_id,
        "video_id": video_id,
        "question": read_text(row, "question", where),
        "answer": answer,
        **extra,
    }


def _whole_number(row: Row, name: str, where: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} has the {name} {value!r}: the original has a whole number there")
    return value


def _objects(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a JSON list, each with what to call it in an error."""
    for number, row in enumerate(read_rows(path), start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} of {path} is {str(row)[:40]!r}, not an object: get it again")
        yield f"row {number} of {path}", row


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): get it again") from None


def _find(source: Path, *names: str) -> Path:
    """The file of the first name that is there: right in the source, else the only one of that name below it."""
    for name in names:
        if (source / name).is_file():
            return source / name
        below = sorted(path for path in source.rglob(name) if path.is_file())
        if len(below) > 1:
            several = ", ".join(str(path) for path in below)
            raise ValueError(f"--source {source} has several {name}: give the folder of one ({several})")
        if below:
            return below[0]
    raise ValueError(f"--source {source} has no {' or '.join(names)}: give the folder of the original download")
