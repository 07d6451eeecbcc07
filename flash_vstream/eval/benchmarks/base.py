"""The benchmarks: where the data of each tag lies, how an item becomes a prompt, how it is scored, what was published.

`load_items` reads the questions (the common form of test_qa.json, as `prepare` writes it), `find_media` finds features
or videos. A fault in a file is a ValueError that names the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from flash_vstream.eval.benchmarks.rows import read_rows, read_seconds, read_text
from flash_vstream.eval.sample import Item
from flash_vstream.model import VStreamProcessor
from flash_vstream.model.prompts import V1_SYSTEM

FEATURE_ENDING = ".safetensors"
VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".flv", "")  # "" is a folder of frames
PAPER_JUDGE = "gpt-3.5-turbo, version not stated (paper, arXiv 2406.08085)"
RETEST_JUDGE = "gpt-3.5-turbo-0125 (users' re-test of the released weights)"
ACTIVITYNET_TYPES = (
    "Motion", "Spatial Relationship", "Temporal Relationship", "Yes/No", "Color", "Object", "Location", "Number",
    "Other",
)  # fmt: skip
NEXT_TYPES = ("CW", "CH", "TN", "TC", "TP", "DO", "DB", "DL", "DC")
N_NAMED = 8  # of the missing videos, in an error


@dataclass(frozen=True)
class Published:
    """A published result of Flash-VStream-7B: accuracy in per cent, mean score 0 to 5 (None: not given), its judge."""

    accuracy: float
    score: float | None
    judge: str


@dataclass(frozen=True)
class Benchmark:
    """One tag. n_items, n_videos: the known size of the whole set, None where it has none.

    folders: names under the data root, the first that holds the questions counts. features, videos: folders inside, in
    the order they are looked into. realtime: asked at `end_time` instead of after the whole video. score: "judge" needs
    one that understands meaning, "exact" does not. answer_types: how the file has it -> how it is reported; empty: any.
    video_prefix: media may be named with or without it. published: results to stand beside ours.
    """

    tag: str
    name: str
    folders: tuple[str, ...]
    n_items: int | None
    n_videos: int | None
    realtime: bool = False
    score: Literal["judge", "exact"] = "judge"
    questions: str = "test_qa.json"
    features: tuple[str, ...] = ("video_features",)
    videos: tuple[str, ...] = ("videos",)
    answer_types: Mapping[str, str] = field(default_factory=dict)
    video_prefix: str = ""
    published: tuple[Published, ...] = ()

    def folder(self, data_root: Path) -> Path:
        """The folder of this set: the one with its questions, else the first that exists, else the first name."""
        candidates = [data_root / name for name in self.folders]
        with_questions = [folder for folder in candidates if (folder / self.questions).is_file()]
        return (with_questions or [folder for folder in candidates if folder.is_dir()] or candidates)[0]

    def questions_file(self, data_root: Path) -> Path:
        return self.folder(data_root) / self.questions


def _vstream(
    tag: str, name: str, folder: str, source: str, n_items: int, n_videos: int, *published: Published
) -> Benchmark:
    """A part of VStream-QA: two sets share a folder, each with its own file and, as in the release, its own media."""
    return Benchmark(
        tag,
        name,
        (folder,),
        n_items,
        n_videos,
        realtime=tag.startswith("realtime_"),
        questions=f"test_qa_{source}.json",
        features=(f"{source}_video_features", "video_features"),
        videos=(f"{source}_videos", "videos", f"{source}_frames"),
        published=published,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.tag: benchmark
    for benchmark in (
        Benchmark(
            "actnet",
            "ActivityNet-QA",
            ("ActivityNet-QA",),
            8_000,
            800,
            answer_types={str(n): name for n, name in enumerate(ACTIVITYNET_TYPES)} | {n: n for n in ACTIVITYNET_TYPES},
            video_prefix="v_",
            published=(Published(51.9, 3.4, PAPER_JUDGE), Published(43.3, None, RETEST_JUDGE)),
        ),
        Benchmark(
            "msvd",
            "MSVD-QA",
            ("MSVD-QA",),
            13_157,
            504,  # of the 520 of the split, the others are not asked about
            published=(Published(80.3, 3.9, PAPER_JUDGE), Published(70.5, None, RETEST_JUDGE)),
        ),
        Benchmark(
            "msrvtt",
            "MSRVTT-QA",
            ("MSRVTT-QA",),
            72_821,
            2_990,
            published=(Published(72.4, 3.4, PAPER_JUDGE), Published(55.0, None, RETEST_JUDGE)),
        ),
        Benchmark(
            "nextoe",
            "NExT-QA open-ended",
            ("nextqa", "nextoe"),  # the release's README says the one, its code the other
            9_178,
            1_000,
            answer_types={name: name for name in NEXT_TYPES},
            published=(Published(61.6, 3.4, PAPER_JUDGE), Published(47.5, None, RETEST_JUDGE)),
        ),
        _vstream("vsego4d", "VS-Ego", "vstream", "ego4d", 1_465, 246, Published(59.0, 3.9, PAPER_JUDGE)),
        _vstream("vsmovienet", "VS-Movie", "vstream", "movienet", 1_905, 83, Published(56.1, 3.4, PAPER_JUDGE)),
        _vstream(
            "realtime_vsego4d",
            "RVS-Ego",
            "vstream-realtime",
            "ego4d",
            1_465,
            99,
            Published(57.3, 4.0, PAPER_JUDGE),
            Published(52.28, None, RETEST_JUDGE),
        ),
        _vstream(
            "realtime_vsmovienet",
            "RVS-Movie",
            "vstream-realtime",
            "movienet",
            1_905,
            22,
            Published(53.1, 3.3, PAPER_JUDGE),
            Published(42.41, None, RETEST_JUDGE),
        ),
        Benchmark(
            "synthetic",
            "the synthetic world",
            ("synthetic",),
            None,
            None,
            realtime=True,
            score="exact",
            features=("features",),
        ),
    )
}


def find_benchmark(tag: str) -> Benchmark:
    """The benchmark of a tag. Raises ValueError for an unknown one."""
    if tag not in BENCHMARKS:
        raise ValueError(f"benchmark {tag!r} is unknown: choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[tag]


def prompt_of(item: Item, processor: VStreamProcessor) -> str:
    """The text that asks an item: its question as the set has it, after the placeholder of what was seen.

    A `system` of the set follows the conversation's own, as in the release; where there is none, it precedes the
    question.
    """
    text = processor.prompt(item.question)
    if not item.system:
        return text
    if text.startswith(V1_SYSTEM):
        return f"{V1_SYSTEM} {item.system}{text.removeprefix(V1_SYSTEM)}"
    return processor.prompt(f"{item.system}\n{item.question}")


def load_items(benchmark: Benchmark, data_root: Path) -> list[Item]:
    """All items of a benchmark, in the order of its file.

    Raises:
        ValueError: the file is missing, not JSON or not a list, a row is malformed (named), or an id occurs twice.
    """
    path = benchmark.questions_file(data_root)
    if not path.is_file():
        folders = " or ".join(str(data_root / name) for name in benchmark.folders)
        source = "" if benchmark.tag == "synthetic" else " --source DOWNLOAD"
        raise ValueError(
            f"{benchmark.tag}: there is no {benchmark.questions} in {folders}: make it with"
            f" python -m flash_vstream.eval.benchmarks.prepare {benchmark.tag}{source} --data_root {data_root}"
        )
    return parse_items(read_rows(path), benchmark, path)


def parse_items(rows: Iterable[Any], benchmark: Benchmark, path: Path) -> list[Item]:
    """Rows of the common form {id, video_id, question, answer, ...} -> items; `path` only for what an error says."""
    items: dict[str, Item] = {}
    places: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        item = _parse(row, benchmark, where)
        if item.id in items:
            raise ValueError(f"{where} has the id {item.id!r} of row {places[item.id]}: an id may occur only once")
        items[item.id], places[item.id] = item, number
    return list(items.values())


def _parse(row: Any, benchmark: Benchmark, where: str) -> Item:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {str(row)[:40]!r}: a row is an object with id, video_id, question and answer")
    item_id = read_text(row, "id", where)
    where = f"{where} (id {item_id!r})"
    video_id = read_text(row, "video_id", where)
    if PurePosixPath(video_id).is_absolute() or ".." in PurePosixPath(video_id).parts:
        raise ValueError(f"{where} has the video_id {video_id!r}: it must lie inside the folder of the videos")
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{where} has the options {options!r}: give a list of texts")
    timed = benchmark.realtime  # elsewhere everything is asked after the whole video, and times are not read
    if timed and row.get("end_time") is None:
        raise ValueError(f"{where} has no end_time, but {benchmark.tag} asks then: prepare the set again")
    return Item(
        tag=benchmark.tag,
        id=item_id,
        video_id=video_id,
        question=read_text(row, "question", where),
        answer=read_text(row, "answer", where),
        answer_type=_answer_type(row, benchmark, where),
        start_time=read_seconds(row, "start_time", where) if timed else None,
        end_time=read_seconds(row, "end_time", where) if timed else None,
        duration=read_seconds(row, "duration", where),
        options=tuple(options),
        system=read_text(row, "system", where) if row.get("system") else "",
        split=read_text(row, "split", where) if row.get("split") else "",
    )


def _answer_type(row: Mapping[str, Any], benchmark: Benchmark, where: str) -> str:
    if row.get("answer_type") in (None, ""):
        return ""
    given = read_text(row, "answer_type", where)
    if benchmark.answer_types and given not in benchmark.answer_types:
        known = ", ".join(dict.fromkeys(benchmark.answer_types.values()))
        raise ValueError(f"{where} has the answer_type {given!r}: {benchmark.name} has {known}")
    return benchmark.answer_types.get(given, given)


def find_media(
    items: Sequence[Item], benchmark: Benchmark, data_root: Path, allow_missing: bool = False
) -> dict[str, Path]:
    """video_id -> its features (.safetensors) if they are there, else its video, else its folder of frames.

    With allow_missing, videos that are not there are absent from the result, and their items are to be scored as
    failures. Raises ValueError that lists them otherwise.
    """
    folder = benchmark.folder(data_root)
    found = {}
    for video_id in dict.fromkeys(item.video_id for item in items):
        path = _media_of(video_id, benchmark, folder)
        if path is not None:
            found[video_id] = path
    missing = missing_videos(items, found)
    if missing and not allow_missing:
        named = ", ".join(missing[:N_NAMED]) + (f" and {len(missing) - N_NAMED} more" if missing[N_NAMED:] else "")
        places = ", ".join(str(folder / name) for name in (*benchmark.features, *benchmark.videos))
        raise ValueError(
            f"{benchmark.tag}: {len(missing)} of {len(missing) + len(found)} videos are missing ({named}): put them or"
            f" their features into one of {places}, or give --allow_missing to count their questions as failures"
        )
    return found


def missing_videos(items: Iterable[Item], media: Mapping[str, Path]) -> list[str]:
    """The video ids that have no media, each once."""
    return [video for video in dict.fromkeys(item.video_id for item in items) if video not in media]


def _media_of(video_id: str, benchmark: Benchmark, folder: Path) -> Path | None:
    names = _names(video_id, benchmark.video_prefix)
    for kind in benchmark.features:
        for name in names:
            if (path := folder / kind / f"{name}{FEATURE_ENDING}").is_file():
                return path
    for kind in benchmark.videos:
        for name in names:
            for ending in VIDEO_ENDINGS:
                path = folder / kind / f"{name}{ending}"
                if path.is_file() if ending else path.is_dir():
                    return path
    return None


def _names(video_id: str, prefix: str) -> list[str]:
    """What the file may be called: as the set says, without the folders of the original, with and without a prefix."""
    names = [video_id, PurePosixPath(video_id).name]
    if prefix:
        names += [prefix + video_id, video_id.removeprefix(prefix)]
    return list(dict.fromkeys(names))
