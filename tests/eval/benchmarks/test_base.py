"""Questions and media of the tags: read as they are, faults named with the row, nothing left out in silence."""

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.benchmarks.base import (
    BENCHMARKS,
    find_benchmark,
    find_media,
    load_items,
    missing_videos,
    prompt_of,
)
from flash_vstream.eval.sample import Item
from flash_vstream.model import VStreamProcessor
from tests.conftest import TinyModel, byte_tokenizer

ROW = {"id": 7, "video_id": "a", "question": "What is it?", "answer": "a dog"}


def put(data_root: Path, tag: str, rows: Any, folder: str | None = None) -> Path:
    """Write rows where the tag has its questions."""
    path = data_root / (folder or BENCHMARKS[tag].folders[0]) / BENCHMARKS[tag].questions
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def some_items(*videos: str, tag: str = "msvd") -> list[Item]:
    return [Item(tag, str(number), video, "What?", "that") for number, video in enumerate(videos)]


def test_the_nine_tags_have_their_known_sizes_and_published_numbers() -> None:
    facts = {
        tag: (b.n_items, b.n_videos, b.realtime, b.score, [(p.accuracy, p.score) for p in b.published])
        for tag, b in BENCHMARKS.items()
    }
    assert facts == {
        "actnet": (8000, 800, False, "judge", [(51.9, 3.4), (43.3, None)]),
        "msvd": (13157, 504, False, "judge", [(80.3, 3.9), (70.5, None)]),
        "msrvtt": (72821, 2990, False, "judge", [(72.4, 3.4), (55.0, None)]),
        "nextoe": (9178, 1000, False, "judge", [(61.6, 3.4), (47.5, None)]),
        "vsego4d": (1465, 246, False, "judge", [(59.0, 3.9)]),
        "vsmovienet": (1905, 83, False, "judge", [(56.1, 3.4)]),
        "realtime_vsego4d": (1465, 99, True, "judge", [(57.3, 4.0), (52.28, None)]),
        "realtime_vsmovienet": (1905, 22, True, "judge", [(53.1, 3.3), (42.41, None)]),
        "synthetic": (None, None, True, "exact", []),
    }
    assert all(published.judge.startswith("gpt-3.5") for b in BENCHMARKS.values() for published in b.published)


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'egoschema' is unknown: choose from actnet, msvd, .*synthetic"):
        find_benchmark("egoschema")


def test_items_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    put(tmp_path, "actnet", [{**ROW, "answer_type": 4, "system": "Be brief."}, {**ROW, "id": "z", "duration": "12.5"}])
    assert load_items(BENCHMARKS["actnet"], tmp_path) == [
        Item("actnet", "7", "a", "What is it?", "a dog", answer_type="Color", system="Be brief."),
        Item("actnet", "z", "a", "What is it?", "a dog", duration=12.5),
    ]


def test_times_are_those_of_the_realtime_tags_only(tmp_path: Path) -> None:
    row = {**ROW, "start_time": 3, "end_time": 9.5, "split": "now"}
    put(tmp_path, "realtime_vsego4d", [row])
    put(tmp_path, "vsego4d", [{**row, "end_time": "shot_0001_img_2"}])
    (timed,), (whole,) = (load_items(BENCHMARKS[tag], tmp_path) for tag in ("realtime_vsego4d", "vsego4d"))
    assert (timed.start_time, timed.end_time, timed.split) == (3.0, 9.5, "now")
    assert (whole.start_time, whole.end_time) == (None, None)


@pytest.mark.parametrize(
    ("tag", "change", "message"),
    [
        ("msvd", {"question": None}, r"row 2 of .*test_qa.json \(id '8'\) has no question"),
        ("msvd", {"answer": "  "}, r"row 2 of .* \(id '8'\) has the answer '  '"),
        ("msvd", {"answer": ["dog"]}, r"row 2 of .* has the answer \['dog'\]"),
        ("msvd", {"id": None}, "row 2 of .* has no id"),
        ("msvd", {"id": True}, "row 2 of .* has the id True"),
        ("msvd", {"id": 7}, "row 2 of .* has the id '7' of row 1"),
        ("msvd", {"id": "7"}, "row 2 of .* has the id '7' of row 1"),
        ("msvd", {"video_id": "../b"}, r"row 2 of .* video_id '\.\./b': it must lie inside"),
        ("msvd", {"video_id": "/b"}, "row 2 of .* video_id '/b': it must lie inside"),
        ("msvd", {"options": "A"}, "row 2 of .* options 'A'"),
        ("msvd", {"duration": "long"}, "row 2 of .* duration 'long': give seconds"),
        ("actnet", {"answer_type": 9}, "row 2 of .* answer_type '9': ActivityNet-QA has Motion, .*, Other$"),
        ("nextoe", {"answer_type": "XX"}, "row 2 of .* answer_type 'XX': .* CW, CH, TN, TC, TP, DO, DB, DL, DC$"),
        ("realtime_vsego4d", {"end_time": None}, "row 2 of .* has no end_time"),
        ("realtime_vsego4d", {"end_time": -1}, "row 2 of .* end_time -1: give seconds from 0 on"),
        ("realtime_vsego4d", {"start_time": float("nan")}, "row 2 of .* start_time nan"),
        ("realtime_vsego4d", {"end_time": float("inf")}, "row 2 of .* end_time inf"),
        ("realtime_vsego4d", {"end_time": True}, "row 2 of .* end_time True"),
        ("realtime_vsmovienet", {"end_time": "shot_0003_img_1.jpg"}, "row 2 of .* a key frame: prepare the set"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, tag: str, change: dict[str, Any], message: str) -> None:
    first = {**ROW, "end_time": 1.0}
    put(tmp_path, tag, [first, {**first, "id": 8, **change}])
    with pytest.raises(ValueError, match=message):
        load_items(BENCHMARKS[tag], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "test_qa.json is not JSON"),
        ("[]", "must hold a list of questions that is not empty"),
        ('{"id": 1}', "must hold a list of questions"),
        ('["hello"]', "row 1 of .* is 'hello': a row is an object"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "msvd", text)
    with pytest.raises(ValueError, match=message):
        load_items(BENCHMARKS["msvd"], tmp_path)


def test_missing_questions_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no test_qa.json in .*nextqa or .*nextoe: .*prepare nextoe --source"):
        load_items(BENCHMARKS["nextoe"], tmp_path)


@pytest.mark.parametrize("folder", ["nextqa", "nextoe"])
def test_both_folder_names_of_next_are_taken(tmp_path: Path, folder: str) -> None:
    (tmp_path / "nextqa").mkdir()  # an empty one does not hide the other
    put(tmp_path, "nextoe", [ROW], folder)
    touch(tmp_path / folder / "videos" / "a.mp4")
    items = load_items(BENCHMARKS["nextoe"], tmp_path)
    assert find_media(items, BENCHMARKS["nextoe"], tmp_path) == {"a": tmp_path / folder / "videos" / "a.mp4"}


def test_features_are_preferred_to_videos_and_those_to_frames(tmp_path: Path) -> None:
    folder = tmp_path / "MSVD-QA"
    features, videos = folder / "video_features", folder / "videos"
    for name in "abc":
        touch(videos / name / "000001.jpg")
    touch(videos / "a.avi", videos / "b.avi", features / "a.safetensors")
    media = find_media(some_items("a", "b", "c", "a"), BENCHMARKS["msvd"], tmp_path)
    assert media == {"a": features / "a.safetensors", "b": videos / "b.avi", "c": videos / "c"}


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    touch(tmp_path / "MSVD-QA" / "videos" / "a.b.mp4", tmp_path / "MSVD-QA" / "videos" / "a.mp4")
    media = find_media(some_items("a.b"), BENCHMARKS["msvd"], tmp_path)
    assert media["a.b"].name == "a.b.mp4"


def test_names_of_the_originals_are_found(tmp_path: Path) -> None:
    """ActivityNet with and without v_, NExT with and without the folders of VidOR."""
    activitynet, following = tmp_path / "ActivityNet-QA" / "videos", tmp_path / "nextqa" / "videos"
    touch(activitynet / "v_a.mp4", activitynet / "b.mkv", following / "01" / "5.mp4", following / "6.mp4")
    media = find_media(some_items("a", "v_b"), BENCHMARKS["actnet"], tmp_path)
    assert media == {"a": activitynet / "v_a.mp4", "v_b": activitynet / "b.mkv"}
    media = find_media(some_items("01/5", "02/6"), BENCHMARKS["nextoe"], tmp_path)
    assert media == {"01/5": following / "01" / "5.mp4", "02/6": following / "6.mp4"}


def test_two_sets_in_one_folder_keep_apart(tmp_path: Path) -> None:
    put(tmp_path, "vsego4d", [ROW])
    put(tmp_path, "vsmovienet", [{**ROW, "id": 8, "video_id": "tt1"}])
    folder = tmp_path / "vstream"
    touch(folder / "ego4d_video_features" / "a.safetensors", folder / "movienet_video_features" / "tt1.safetensors")
    for tag, video, source in (("vsego4d", "a", "ego4d"), ("vsmovienet", "tt1", "movienet")):
        items = load_items(BENCHMARKS[tag], tmp_path)
        expected = folder / f"{source}_video_features" / f"{video}.safetensors"
        assert find_media(items, BENCHMARKS[tag], tmp_path) == {video: expected}


def test_missing_videos_are_listed_once_each(tmp_path: Path) -> None:
    touch(tmp_path / "MSVD-QA" / "videos" / "a.mp4")
    items = some_items("a", *"bcdefghijk", "b")
    with pytest.raises(ValueError, match=r"10 of 11 videos are missing \(b, c, .*, i and 2 more\).*--allow_missing"):
        find_media(items, BENCHMARKS["msvd"], tmp_path)
    media = find_media(items, BENCHMARKS["msvd"], tmp_path, allow_missing=True)
    assert set(media) == {"a"}
    assert missing_videos(items, media) == list("bcdefghijk")


def test_a_prompt_is_the_question_after_the_placeholder(tiny_model: TinyModel) -> None:
    processor = tiny_model[1]
    item = Item("msvd", "1", "a", "What is it?", "a dog")
    assert prompt_of(item, processor).endswith("questions. USER: <image>\nWhat is it? ASSISTANT:")
    item = Item("msvd", "1", "a", "What is it?", "a dog", system="Be brief.")
    assert prompt_of(item, processor).endswith("user's questions. Be brief. USER: <image>\nWhat is it? ASSISTANT:")


def test_without_a_system_of_its_own_the_sets_precedes_the_question(tiny_model: TinyModel) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    given = tiny_model[1]
    processor = VStreamProcessor(tokenizer, given.frames, given.memory, given.visual_token_id, "chat_template")
    item = Item("msvd", "1", "a", "What is it?", "a dog", system="Be brief.")
    assert prompt_of(item, processor) == "[user]<image>\nBe brief.\nWhat is it?[assistant]"
