"""What a benchmark is: where its questions and videos lie, how they are read, how they are scored, what was published.

A module of one benchmark builds a `Benchmark` and replaces the functions in which its set differs from the others.
Imports neither torch nor transformers: reports read benchmarks, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from flash_vstream.eval.benchmarks.rows import Row, read_rows, read_seconds, read_text
from flash_vstream.eval.sample import Sample
from flash_vstream.features import SUFFIX

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".flv", "")  # "" is a folder of frames
PAPER_JUDGE = "gpt-3.5-turbo, version not stated (paper, arXiv 2406.08085)"
RETEST_JUDGE = "gpt-3.5-turbo-0125 (users' re-test of the released weights)"
N_NAMED = 8  # missing videos that an error names


@dataclass(frozen=True)
class Published:
    """A published result of Flash-VStream-7B: accuracy in per cent; mean score, 0 to 5, None if it was not given."""

    accuracy: float
    score: float | None
    judge: str


def read_common(benchmark: Benchmark, path: Path) -> list[Sample]:
    """Read a question file of the common form, a list of {id, video_id, question, answer, ...}; see `parse`."""
    return parse(benchmark, read_rows(path), path)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: one tag.

    Attributes:
        folders: Names below the data root; the first that holds the questions is used.
        n_questions: Number of questions of the whole set; None if it has no fixed size. `n_videos` likewise.
        realtime: Whether questions are asked at their `end_time`, instead of after the whole video.
        scorer: "exact": exact match; "judge": a language model is needed, which understands meaning; "choice":
            multiple choice, by the generated reply and by the likelihoods of the options.
        questions: Question files; the samples of all that exist are joined.
        features: Folders of feature files below the set's folder, in the order of search.
        videos: Folders of videos likewise; searched after all feature folders.
        answer_types: Answer type in the file -> in reports; empty: any.
        video_prefix: Files of videos may have this prefix or not.
        convert: Reads an original download. (benchmark, source, data_root) -> rows of the common form, and the file
            whose rows these are. None: the original files are read as they are.
        make_files: Makes the files of the set before they are loaded: (folder, model, processor, number of videos or
            None). None: the files must exist.
        group_of: A grouping for reports besides split and answer type.
        task_scores: The benchmark's own: (accuracy by task, 0 to 1; questions by task) -> score by name.
    """

    tag: str
    name: str
    folders: tuple[str, ...]
    n_questions: int | None = None
    n_videos: int | None = None
    realtime: bool = False
    scorer: Literal["exact", "judge", "choice"] = "judge"
    max_new_tokens: int = 128
    questions: tuple[str, ...] = ("test_qa.json",)
    features: tuple[str, ...] = ("video_features",)
    videos: tuple[str, ...] = ("videos",)
    answer_types: Mapping[str, str] = field(default_factory=dict)
    video_prefix: str = ""
    published: tuple[Published, ...] = ()
    read: Callable[[Benchmark, Path], list[Sample]] = read_common
    convert: Callable[[Benchmark, Path, Path], tuple[list[Row], Path]] | None = None
    make_files: Callable[[Path, Any, Any, int | None], None] | None = None
    group_of: Callable[[Sample], str] | None = None
    task_scores: Callable[[Mapping[str, float], Mapping[str, int]], dict[str, float]] | None = None

    def folder(self, data_root: Path) -> Path:
        """The folder of this set: the first with questions, else the first that exists, else the first name."""
        candidates = [data_root / name for name in self.folders]
        with_questions = [folder for folder in candidates if any((folder / name).is_file() for name in self.questions)]
        return (with_questions or [folder for folder in candidates if folder.is_dir()] or candidates)[0]

    def questions_file(self, data_root: Path) -> Path:
        """The question file, the first if there are several."""
        return self.folder(data_root) / self.questions[0]

    def load(self, data_root: Path, files: Sequence[Path] = ()) -> list[Sample]:
        """Read all samples, in the order of the files: those in `data_root`, or `files` instead (--annotations).

        Raises ValueError if a file is missing or not a list in JSON, a row is malformed (it is named), an id occurs
        twice, or there is no question.
        """
        folder = self.folder(data_root)
        paths = list(files) or [folder / name for name in self.questions if (folder / name).is_file()]
        if not paths:
            folders = " or ".join(str(data_root / name) for name in self.folders)
            missing = f"{self.tag}: there is no {' or '.join(self.questions)} in {folders}"
            if self.convert is None and self.make_files is None:
                raise ValueError(f"{missing}: put it there, or give --annotations")
            source = "" if self.convert is None else " --source DOWNLOAD"
            raise ValueError(
                f"{missing}: make it with flash-vstream prepare {self.tag}{source} --data_root {data_root}"
            )
        if missing_files := [path for path in paths if not path.is_file()]:
            raise ValueError(f"the question file {missing_files[0]} is missing: check --annotations")
        samples = distinct((str(path), sample) for path in paths for sample in self.read(self, path))
        if not samples:
            raise ValueError(f"{' and '.join(map(str, paths))} hold no question: get them again")
        return samples

    def find_media(self, samples: Sequence[Sample], data_root: Path, allow_missing: bool = False) -> dict[str, Path]:
        """Find what is watched: video_id -> its feature file, else its video, else its folder of frames.

        Missing videos are left out with `allow_missing`; else a ValueError lists them.
        """
        folder = self.folder(data_root)
        videos = dict.fromkeys(sample.video_id for sample in samples)
        found = {video: path for video in videos if (path := self._media_of(video, folder)) is not None}
        missing = missing_videos(samples, found)
        if missing and not allow_missing:
            named = ", ".join(missing[:N_NAMED]) + (f" and {len(missing) - N_NAMED} more" if missing[N_NAMED:] else "")
            places = ", ".join(str(folder / name) for name in (*self.features, *self.videos))
            raise ValueError(
                f"{self.tag}: {len(missing)} of {len(missing) + len(found)} videos are missing ({named}): put them or"
                f" their features into one of {places}, or give --allow_missing to count their questions as failures"
            )
        return found

    def _media_of(self, video_id: str, folder: Path) -> Path | None:
        names = [video_id, PurePosixPath(video_id).name]  # with and without the folders of the original
        if self.video_prefix:
            names += [self.video_prefix + video_id, video_id.removeprefix(self.video_prefix)]
        kinds = [(kind, (SUFFIX,)) for kind in self.features] + [(kind, VIDEO_ENDINGS) for kind in self.videos]
        for kind, endings in kinds:
            for name in names:
                for ending in endings:
                    path = folder / kind / f"{name}{ending}"
                    if path.is_file() if ending else path.is_dir():
                        return path
        return None


def missing_videos(samples: Iterable[Sample], media: Mapping[str, Path]) -> list[str]:
    """The video ids without media, each once."""
    return [video for video in dict.fromkeys(sample.video_id for sample in samples) if video not in media]


def parse(benchmark: Benchmark, rows: Iterable[Any], path: Path) -> list[Sample]:
    """Turn rows of the common form {id, video_id, question, answer, ...}, which come from `path`, into samples.

    Raises ValueError, naming the row, for one that is malformed or repeats an id.
    """
    numbered = ((f"row {number} of {path}", row) for number, row in enumerate(rows, start=1))
    return distinct((where, _parse_row(benchmark, row, where)) for where, row in numbered)


def distinct(placed: Iterable[tuple[str, Sample]]) -> list[Sample]:
    """The samples. Raises ValueError, naming both places, for an id that occurs twice."""
    found: dict[str, tuple[str, Sample]] = {}
    for where, sample in placed:
        if sample.id in found:
            raise ValueError(f"{where} has the id {sample.id!r} of {found[sample.id][0]}: each id may occur once")
        found[sample.id] = (where, sample)
    return [sample for _, sample in found.values()]


def _parse_row(benchmark: Benchmark, row: Any, where: str) -> Sample:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {str(row)[:40]!r}: a row is an object with id, video_id, question and answer")
    sample_id = read_text(row, "id", where)
    where = f"{where} (id {sample_id!r})"
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{where} has the options {options!r}: give a list of texts")
    # Other benchmarks ask everything after the whole video: their times are not read.
    end_time = read_seconds(row, "end_time", where) if benchmark.realtime else None
    if benchmark.realtime and end_time is None:
        raise ValueError(f"{where} has no end_time, at which {benchmark.tag} asks: prepare the set again")
    return Sample(
        tag=benchmark.tag,
        id=sample_id,
        video_id=checked_video(read_text(row, "video_id", where), where),
        question=read_text(row, "question", where),
        answer=read_text(row, "answer", where),
        answer_type=_answer_type(benchmark, row, where),
        end_time=end_time,
        options=tuple(options),
        system=read_text(row, "system", where) if row.get("system") else "",
        split=read_text(row, "split", where) if row.get("split") else "",
    )


def checked_video(video_id: str, where: str) -> str:
    """A video's name. Raises ValueError, naming `where`, for one that leads out of the folder of the videos."""
    if PurePosixPath(video_id).is_absolute() or ".." in PurePosixPath(video_id).parts:
        raise ValueError(f"{where} has the video {video_id!r}: it must lie inside the folder of the videos")
    return video_id


def _answer_type(benchmark: Benchmark, row: Mapping[str, Any], where: str) -> str:
    if row.get("answer_type") in (None, ""):
        return ""
    given = read_text(row, "answer_type", where)
    if benchmark.answer_types and given not in benchmark.answer_types:
        known = ", ".join(dict.fromkeys(benchmark.answer_types.values()))
        raise ValueError(f"{where} has the answer_type {given!r}: {benchmark.name} has {known}")
    return benchmark.answer_types.get(given, given)
