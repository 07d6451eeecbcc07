"""Questions and media of the tags: read as they are, faults named with the row, nothing left out in silence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.cli import main
from flash_vstream.eval.answering.store import read_predictions
from flash_vstream.eval.benchmarks import REGISTRY, find_benchmark
from flash_vstream.eval.benchmarks.base import missing_videos
from flash_vstream.eval.sample import Sample
from tests.conftest import TinyModel
from tests.eval.launch import ROOT
from tests.eval.worlds import write_videos

ROW = {"id": 7, "video_id": "a", "question": "What is it?", "answer": "a dog"}


def put(data_root: Path, tag: str, rows: Any, folder: str | None = None) -> Path:
    """Write rows where the tag has its questions."""
    path = data_root / (folder or find_benchmark(tag).folders[0]) / find_benchmark(tag).questions[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def put_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def some_samples(*videos: str, tag: str = "msvd") -> list[Sample]:
    return [Sample(tag, str(number), video, "What?", "that") for number, video in enumerate(videos)]


def test_the_tags_have_their_known_sizes_and_published_numbers() -> None:
    benchmarks = {tag: find_benchmark(tag) for tag in REGISTRY}
    assert [benchmark.tag for benchmark in benchmarks.values()] == list(REGISTRY)
    facts = {
        tag: (b.n_questions, b.n_videos, b.realtime, b.scorer, [(p.accuracy, p.score) for p in b.published])
        for tag, b in benchmarks.items()
    }
    assert facts == {
        "actnet": (8000, (800,), False, "judge", [(51.9, 3.4), (43.3, None)]),
        "msvd": (13157, (504,), False, "judge", [(80.3, 3.9), (70.5, None)]),
        "msrvtt": (72821, (2990,), False, "judge", [(72.4, 3.4), (55.0, None)]),
        "nextoe": (9178, (1000,), False, "judge", [(61.6, 3.4), (47.5, None)]),
        "vsego4d": (1465, (246,), False, "judge", [(59.0, 3.9)]),
        "vsmovienet": (1905, (83,), False, "judge", [(56.1, 3.4)]),
        "realtime_vsego4d": (1465, (10, 99), True, "judge", [(57.3, 4.0), (52.28, None)]),
        "realtime_vsmovienet": (1905, (22,), True, "judge", [(53.1, 3.3), (42.41, None)]),
        "ovo": (None, (644,), True, "choice", []),
        "streaming_bench": (None, (), True, "choice", []),
        "egoschema": (500, (500,), False, "choice", []),
        "mlvu": (2175, (1242,), False, "choice", []),
        "lvbench": (1508, (100,), False, "choice", []),
        "mvbench": (4000, (3871,), False, "choice", []),
        "videomme": (2700, (900,), False, "choice", []),
        "synthetic": (None, (), True, "exact", []),
    }
    assert all(published.judge.startswith("gpt-3.5") for b in benchmarks.values() for published in b.published)


def test_benchmarks_load_no_torch() -> None:
    code = "import sys; from flash_vstream.eval.benchmarks import REGISTRY, find_benchmark"
    code += "; [find_benchmark(tag) for tag in REGISTRY]; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'imagenet' .* actnet, msvd, .*synthetic"):
        find_benchmark("imagenet")


def test_samples_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    put(tmp_path, "actnet", [{**ROW, "answer_type": 4, "system": "Be brief."}, {**ROW, "id": "z", "duration": 12}])
    assert find_benchmark("actnet").load(tmp_path) == [
        Sample("actnet", "7", "a", "What is it?", "a dog", answer_type="Color", system="Be brief."),
        Sample("actnet", "z", "a", "What is it?", "a dog"),
    ]


def test_times_are_those_of_the_realtime_tags_only(tmp_path: Path) -> None:
    row = {**ROW, "end_time": 9.5, "split": "now"}
    put(tmp_path, "realtime_vsego4d", [row])
    put(tmp_path, "vsego4d", [{**row, "end_time": "shot_0001_img_2"}])
    (timed,), (whole,) = (find_benchmark(tag).load(tmp_path) for tag in ("realtime_vsego4d", "vsego4d"))
    assert (timed.end_time, timed.split, whole.end_time) == (9.5, "now", None)


@pytest.mark.parametrize(
    ("tag", "change", "message"),
    [
        ("msvd", {"question": None}, r"\(id '8'\) .* question"),
        ("msvd", {"answer": "  "}, r"\(id '8'\) .* answer '  '"),
        ("msvd", {"answer": ["dog"]}, r"answer \['dog'\]"),
        ("msvd", {"id": None}, " id"),
        ("msvd", {"id": True}, "id True"),
        ("msvd", {"id": 7}, "id '7' of row 1"),
        ("msvd", {"id": "7"}, "id '7' of row 1"),
        ("msvd", {"video_id": "../b"}, r"'\.\./b'"),
        ("msvd", {"video_id": "/b"}, "'/b'"),
        ("msvd", {"options": "A"}, "options 'A'"),
        ("actnet", {"answer_type": 9}, "answer_type '9': .* Motion, .*, Other$"),
        ("nextoe", {"answer_type": "XX"}, "answer_type 'XX': .* CW, CH, TN, TC, TP, DO, DB, DL, DC$"),
        ("realtime_vsego4d", {"end_time": None}, "end_time"),
        ("realtime_vsego4d", {"end_time": -1}, "end_time -1"),
        ("realtime_vsego4d", {"end_time": float("nan")}, "end_time nan"),
        ("realtime_vsego4d", {"end_time": float("inf")}, "end_time inf"),
        ("realtime_vsego4d", {"end_time": True}, "end_time True"),
        ("realtime_vsmovienet", {"end_time": "shot_0003_img_1.jpg"}, "end_time .* key frame"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, tag: str, change: dict[str, Any], message: str) -> None:
    first = {**ROW, "end_time": 1.0}
    put(tmp_path, tag, [first, {**first, "id": 8, **change}])
    with pytest.raises(ValueError, match=f"row 2 of .*{message}"):
        find_benchmark(tag).load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "test_qa.json is not JSON"),
        ("[]", "test_qa.json"),
        ('{"id": 1}', "test_qa.json"),
        ('["hello"]', "row 1 of .*'hello'"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "msvd", text)
    with pytest.raises(ValueError, match=message):
        find_benchmark("msvd").load(tmp_path)


def test_missing_questions_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test_qa.json in .*nextqa or .*nextoe: .*prepare nextoe --source"):
        find_benchmark("nextoe").load(tmp_path)


@pytest.mark.parametrize("folder", ["nextqa", "nextoe"])
def test_both_folder_names_of_next_are_taken(tmp_path: Path, folder: str) -> None:
    (tmp_path / "nextqa").mkdir()  # an empty one does not hide the other
    put(tmp_path, "nextoe", [ROW], folder)
    touch(tmp_path / folder / "videos" / "a.mp4")
    samples = find_benchmark("nextoe").load(tmp_path)
    assert find_benchmark("nextoe").find_media(samples, tmp_path) == {"a": tmp_path / folder / "videos" / "a.mp4"}


def test_features_are_preferred_to_videos_and_those_to_frames(tmp_path: Path) -> None:
    folder = tmp_path / "MSVD-QA"
    features, videos = folder / "video_features", folder / "videos"
    for name in "abc":
        touch(videos / name / "000001.jpg")
    touch(videos / "a.avi", videos / "b.avi", features / "a.safetensors")
    media = find_benchmark("msvd").find_media(some_samples("a", "b", "c", "a"), tmp_path)
    assert media == {"a": features / "a.safetensors", "b": videos / "b.avi", "c": videos / "c"}


@pytest.mark.parametrize(
    "name", ["v0.MP4", "v0.Mkv", "v0.mpeg", "v0.MPEG", "v0.ts", "v0.wmv", "v0.3gp", "v0.M4V", "v0.webm", "v0.flv"]
)
def test_every_container_is_found_with_its_ending_in_any_case(tmp_path: Path, name: str) -> None:
    """E10: what extraction takes, evaluation finds."""
    path = tmp_path / "MSVD-QA" / "videos" / name
    touch(path, path.with_name("v00.mp4"), path.with_name("v0.txt"))
    assert find_benchmark("msvd").find_media(some_samples("v0"), tmp_path) == {"v0": path}


def test_of_several_endings_the_usual_one_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "MSVD-QA" / "videos"
    touch(folder / "a.MP4", folder / "a.mp4", folder / "a.avi", folder / "b.MP4", folder / "b.AVI", folder / "B.mp4")
    media = find_benchmark("msvd").find_media(some_samples("a", "b"), tmp_path)
    assert media == {"a": folder / "a.mp4", "b": folder / "b.MP4"}


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    touch(tmp_path / "MSVD-QA" / "videos" / "a.b.mp4", tmp_path / "MSVD-QA" / "videos" / "a.mp4")
    media = find_benchmark("msvd").find_media(some_samples("a.b"), tmp_path)
    assert media["a.b"].name == "a.b.mp4"


def test_names_of_the_originals_are_found(tmp_path: Path) -> None:
    """ActivityNet with and without v_, NExT with and without the folders of VidOR."""
    activitynet, following = tmp_path / "ActivityNet-QA" / "videos", tmp_path / "nextqa" / "videos"
    touch(activitynet / "v_a.mp4", activitynet / "b.mkv", following / "01" / "5.mp4", following / "6.mp4")
    media = find_benchmark("actnet").find_media(some_samples("a", "v_b"), tmp_path)
    assert media == {"a": activitynet / "v_a.mp4", "v_b": activitynet / "b.mkv"}
    media = find_benchmark("nextoe").find_media(some_samples("01/5", "02/6"), tmp_path)
    assert media == {"01/5": following / "01" / "5.mp4", "02/6": following / "6.mp4"}


def test_two_sets_in_one_folder_keep_apart(tmp_path: Path) -> None:
    put(tmp_path, "vsego4d", [ROW])
    put(tmp_path, "vsmovienet", [{**ROW, "id": 8, "video_id": "tt1"}])
    folder = tmp_path / "vstream"
    touch(folder / "ego4d_video_features" / "a.safetensors", folder / "movienet_video_features" / "tt1.safetensors")
    for tag, video, source in (("vsego4d", "a", "ego4d"), ("vsmovienet", "tt1", "movienet")):
        samples = find_benchmark(tag).load(tmp_path)
        expected = folder / f"{source}_video_features" / f"{video}.safetensors"
        assert find_benchmark(tag).find_media(samples, tmp_path) == {video: expected}


def test_missing_videos_are_listed_once_each(tmp_path: Path) -> None:
    touch(tmp_path / "MSVD-QA" / "videos" / "a.mp4")
    samples = some_samples("a", *"bcdefghijk", "b")
    with pytest.raises(ValueError, match=r"10 of 11 .*\(b, c, .*, i and 2 more\).*--allow_missing"):
        find_benchmark("msvd").find_media(samples, tmp_path)
    media = find_benchmark("msvd").find_media(samples, tmp_path, allow_missing=True)
    assert set(media) == {"a"}
    assert missing_videos(samples, media) == list("bcdefghijk")


NEW_MODULE = """
from flash_vstream.eval.benchmarks.base import Benchmark
from flash_vstream.eval.benchmarks.rows import common_row, find_file, read_objects

def convert(benchmark, source, data_root):
    path = find_file(source, "ten.json")
    rows = read_objects(path)
    return [common_row(row["nr"], row["film"], row, where, end_time=row["at"]) for where, row in rows], path

def group_of(sample):
    return "early" if sample.end_time < 5 else "late"

BENCHMARKS = (
    Benchmark("ten", "Ten questions", ("ten",), realtime=True, scorer="exact", convert=convert, group_of=group_of),
)
"""


def test_a_new_benchmark_is_one_module_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prepared, asked, judged and reported like any other."""
    (tmp_path / "ten_questions.py").write_text(NEW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REGISTRY, "ten", "ten_questions")
    write_videos(tmp_path / "ten" / "videos")
    rows = [{"nr": n, "film": f"v{n % 2}", "question": f"Is it {n}?", "answer": "no", "at": n + 0.5} for n in range(10)]
    put_json(tmp_path / "download" / "ten.json", rows)
    for part in tiny_model:
        part.save_pretrained(tmp_path / "model")
    data = ["--data_root", str(tmp_path)]
    assert main(["prepare", "ten", "--source", str(tmp_path / "download"), *data]) == 0
    command = ["ten", *data, "--model_path", str(tmp_path / "model"), "--max_new_tokens", "3", "--device", "cpu"]
    assert main(["eval", *command, "--output_dir", str(tmp_path / "out")]) == 0
    assert "Ten questions" in capsys.readouterr().out
    seen = [prediction.frames_seen for prediction in read_predictions(tmp_path / "out" / "predictions.jsonl").values()]
    assert seen == list(range(1, 11))
    (tag,) = json.loads((tmp_path / "out" / "report.json").read_text())["tags"]
    sizes = {group["name"]: group["n_questions"] for group in tag["groups"]}
    assert sizes == {"all": 10, "early": 5, "late": 5}
    assert main(["report", str(tmp_path / "out"), *data]) == 0
