"""What a benchmark is: where its questions and videos lie, how they are read, how they are scored, what was published.

A module of one benchmark builds a `Benchmark` and replaces the functions in which its set differs from the others.
Imports neither torch nor transformers: reports read benchmarks, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from flash_vstream.eval.benchmarks.rows import Row, read_rows, read_seconds, read_text
from flash_vstream.eval.sample import Sample
from flash_vstream.features import SUFFIX, VIDEOS

PAPER_JUDGE = "gpt-3.5-turbo, version not stated (paper, arXiv 2406.08085)"
RETEST_JUDGE = "gpt-3.5-turbo-0125 (users' re-test of the released weights)"
OWN_PROMPT, OFFICIAL_PROMPT = PROMPTS = ("project", "official")  # whose words the questions have
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
        n_questions: Number of questions of the whole set; None if it has no fixed size.
        n_videos: Number of its videos; several numbers if it is distributed in several forms; none if it is not fixed.
        realtime: Whether questions are asked at their `end_time`, instead of after the whole video.
        scorer: "exact": exact match; "judge": a language model is needed, which understands meaning; "choice":
            multiple choice, by the generated reply and by the likelihoods of the options.
        questions: Question files; the samples of all that exist are joined.
        instead_of: Question file -> another form of it, which is used if both exist.
        features: Folders of feature files below the set's folder, in the order of search.
        videos: Folders of videos likewise; searched after all feature folders.
        answer_types: Answer type in the file -> in reports; empty: any.
        video_prefix: Files of videos may have this prefix or not.
        media_names: Further names, below the folders of videos and features, that a video may have.
        chunks: A folder of clips that are named by the ids of samples, each cut at the moment of its question. They are
            watched whole, where the video itself is missing.
        convert: Reads an original download. (benchmark, source, data_root) -> rows of the common form, and the file
            whose rows these are. None: the original files are read as they are.
        make_files: Makes the files of the set before they are loaded: (folder, model, processor, number of videos or
            None). None: the files must exist.
        group_of: A grouping for reports besides split and answer type.
        task_scores: The benchmark's own: (accuracy by task, 0 to 1; questions by task) -> score by name.
        poll_scores: Scores of questions that are polled: (samples; for each, the probability that its reply is Yes) ->
            score by name.
        official_rule: How the benchmark's own script reads a reply: (sample, reply) -> whether it is right.
    """

    tag: str
    name: str
    folders: tuple[str, ...]
    n_questions: int | None = None
    n_videos: tuple[int, ...] = ()
    realtime: bool = False
    scorer: Literal["exact", "judge", "choice"] = "judge"
    max_new_tokens: int = 128
    questions: tuple[str, ...] = ("test_qa.json",)
    instead_of: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ("video_features",)
    videos: tuple[str, ...] = ("videos",)
    answer_types: Mapping[str, str] = field(default_factory=dict)
    video_prefix: str = ""
    media_names: Callable[[str], list[str]] | None = None
    chunks: str = ""
    published: tuple[Published, ...] = ()
    read: Callable[[Benchmark, Path], list[Sample]] = read_common
    convert: Callable[[Benchmark, Path, Path], tuple[list[Row], Path]] | None = None
    make_files: Callable[[Path, Any, Any, int | None], None] | None = None
    group_of: Callable[[Sample], str] | None = None
    task_scores: Callable[[Mapping[str, float], Mapping[str, int]], dict[str, float]] | None = None
    poll_scores: Callable[[Sequence[Sample], Sequence[float]], dict[str, float]] | None = None
    official_rule: Callable[[Sample, str], bool] | None = None

    def folder(self, data_root: Path) -> Path:
        """The folder of this set: the first with questions, else the first that exists, else the first name."""
        candidates = [data_root / name for name in self.folders]
        with_questions = [folder for folder in candidates if any((folder / name).is_file() for name in self.questions)]
        return (with_questions or [folder for folder in candidates if folder.is_dir()] or candidates)[0]

    def questions_file(self, data_root: Path) -> Path:
        """The question file, the first if there are several."""
        return self.folder(data_root) / self.questions[0]

    def load(self, data_root: Path, files: Sequence[Path] = (), prompt: str = OWN_PROMPT) -> list[Sample]:
        """Read all samples, in the order of the files: those in `data_root`, or `files` instead (--annotations).

        With OFFICIAL_PROMPT they ask in the words of the benchmark's own script. A row that cannot be asked is a sample
        with a `fault` where the benchmark's files are read as downloaded; of prepared files it is an error, as of files
        whose rows are all faulty. Raises ValueError if a file is missing or not a list in JSON, a row is malformed (it
        is named), an id occurs twice, or there is no question.
        """
        folder = self.folder(data_root)
        present = {name for name in self.questions if (folder / name).is_file()}
        paths = list(files) or [
            folder / name for name in self.questions if name in present and self.instead_of.get(name) not in present
        ]
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
        if all(sample.fault for sample in samples):
            raise ValueError(samples[0].fault)
        if prompt == OFFICIAL_PROMPT:
            if not all(sample.official or sample.fault for sample in samples):
                raise ValueError(f"--prompt {prompt}: no other wording of {self.name} is known, leave it out")
            samples = [replace(sample, question=sample.official) for sample in samples]
        return samples

    def find_media(self, samples: Sequence[Sample], data_root: Path, allow_missing: bool = False) -> dict[str, Path]:
        """Find what is watched: video_id -> its feature file, else its video, else its folder of frames.

        Endings count in any case. A sample whose video is missing may have a clip of its own, as `chunk_of(sample)`.
        Missing videos are left out with `allow_missing`; else a ValueError lists them.
        """
        folder, listing = self.folder(data_root), _Listing()
        found: dict[str, Path] = {}
        for sample in samples:
            if sample.fault or sample.video_id in found:
                continue
            path = self._media_of(sample.video_id, folder, listing)
            if path is None and self.chunks:
                path = self._chunk_of(sample, folder, listing)
                found |= {} if path is None else {chunk_of(sample): path}
            elif path is not None:
                found[sample.video_id] = path
        missing = missing_videos(samples, found)
        if missing and not allow_missing:
            named = ", ".join(missing[:N_NAMED]) + (f" and {len(missing) - N_NAMED} more" if missing[N_NAMED:] else "")
            n_videos = len({sample.video_id for sample in samples if not sample.fault})
            places = ", ".join(str(folder / name) for name in (*self.features, *self.videos))
            raise ValueError(
                f"{self.tag}: {len(missing)} of {n_videos} videos are missing ({named}): put them or"
                f" their features into one of {places}, or give --allow_missing to count their questions as failures"
            )
        return found

    def _media_of(self, video_id: str, folder: Path, listing: _Listing) -> Path | None:
        names = [video_id, PurePosixPath(video_id).name]  # with and without the folders of the original
        if self.video_prefix:
            names += [self.video_prefix + video_id, video_id.removeprefix(self.video_prefix)]
        if self.media_names is not None:
            names += self.media_names(video_id)
        features = (folder / kind / f"{name}{SUFFIX}" for kind in self.features for name in names)
        videos = (listing.find(folder / kind / name) for kind in self.videos for name in names)
        return next((path for path in features if path.is_file()), None) or next(filter(None, videos), None)

    def _chunk_of(self, sample: Sample, folder: Path, listing: _Listing) -> Path | None:
        features = (folder / kind / self.chunks / f"{sample.id}{SUFFIX}" for kind in self.features)
        return next((path for path in features if path.is_file()), None) or listing.find(
            folder / self.chunks / sample.id
        )


class _Listing:
    """The videos and the folders of frames below some folders, each of which is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def find(self, place: Path) -> Path | None:
        """The video at a path without its ending, else the folder of frames there; None if there is neither."""
        if place.parent not in self._folders:
            self._folders[place.parent] = self._videos(place.parent)
        found = self._folders[place.parent].get(place.name)
        return place if found is None and place.is_dir() else found

    @staticmethod
    def _videos(folder: Path) -> dict[str, Path]:
        """Name without the ending -> video; of several the .mp4, else the first by its ending, lower case first."""
        paths = [path for path in folder.iterdir() if path.suffix.lower() in VIDEOS] if folder.is_dir() else []
        order = sorted(
            paths, key=lambda path: (path.suffix.lower() != ".mp4", path.suffix.lower(), path.name.swapcase())
        )
        return {path.stem: path for path in reversed(order) if path.is_file()}


def chunk_of(sample: Sample) -> str:
    """The key under which media hold the clip of one sample, in place of its video."""
    return f"chunk/{sample.id}"


def as_watched(sample: Sample, media: Mapping[str, Path]) -> Sample:
    """The sample as it is asked: of a clip that was cut for it, after the whole clip."""
    if sample.fault or sample.video_id in media or chunk_of(sample) not in media:
        return sample
    return replace(sample, video_id=chunk_of(sample), end_time=None)


def missing_videos(samples: Iterable[Sample], media: Mapping[str, Path]) -> list[str]:
    """The ids of videos without media that are asked about, each once."""
    asked = [sample for sample in samples if not sample.fault and as_watched(sample, media).video_id not in media]
    return list(dict.fromkeys(sample.video_id for sample in asked))


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
    others = row.get("other_answers") or []
    if not isinstance(others, list) or not all(isinstance(other, str) and other.strip() for other in others):
        raise ValueError(f"{where} has the other_answers {others!r}: give a list of texts")
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
        other_answers=tuple(other.strip() for other in others),
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
