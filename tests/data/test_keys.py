"""A record that would lose its visual, its span or its instructions is refused, whatever the key is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream import cli
from flash_vstream.data import MediaFolders, Record
from flash_vstream.data.dataset import decode_frames
from flash_vstream.data.survey import survey
from tests.data.files import conversation, image_record, record, text_record, write_records
from tests.video.clips import number_of, write_clip

ASKED = conversation([("What is rolling?", "A red ball.")])
FOLDERS = MediaFolders(Path("i"), Path("v"))


def parsed(fields: dict[str, Any]) -> Record:
    return Record.parse(fields, FOLDERS, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("videos", ["a.mp4"]),
        ("images", ["a.jpg", "b.jpg"]),
        ("video_path", "folder/clip"),
        ("imagePath", "x"),
        ("media", [{"type": "video", "path": "a"}]),
        ("image_1", "a"),
        ("clip", "a"),
        ("frames", ["f1", "f2"]),
        ("video_id", "v_1"),
        ("image_id", 12),
        ("image_base64", "iVBORw0KGgo"),
        ("image_bytes", "iVBORw0KGgo"),
        ("frames", [["f1"], ["f2"]]),
        ("source", "a.mp4"),
        ("meta", {"files": ["x/a.webp"]}),
        ("features", "x/a.safetensors"),
    ],
)
def test_a_visual_under_another_key_is_named(key: str, value: Any) -> None:
    """P08, E5: such a record must not become a text record."""
    with pytest.raises(ValueError, match=rf"record 't1' .*'{key}'"):
        parsed(text_record(conversations=ASKED, **{key: value}))


@pytest.mark.parametrize(
    "question",
    [
        "<video>\nWas a person there?",
        "<video> Was a person there?",
        "Was a person there?\n<video>",
        "Was a person there? <video>",
        "Look.\n<video>\nWas a person there?",
        "<VIDEO>\nWho?",
        "<ImageHere>Who?",
        "<|video_pad|>\nWho?",
        "Compare <image> with this.",
    ],
)
def test_a_placeholder_without_a_visual_is_named(question: str) -> None:
    """E5: a record that lost its video must not train on the literal tag."""
    turns = conversation([(question, "Yes.")])
    with pytest.raises(ValueError, match=r"record None has .*placeholder.* but neither image nor video"):
        parsed({"scene_id": "s1", "conversations": turns})
    with pytest.raises(ValueError, match=r"record 't1' has .*placeholder"):
        parsed(text_record(conversations=conversation([("Who?", "A man.")]) + turns))


@pytest.mark.parametrize(
    "question",
    [
        "How do I loop a clip with the <video> tag in HTML?",
        "What does this do?\n<video>\n<source src='a'>\n</video>",
        "Why does <img src='a.png'> show nothing?",
    ],
)
def test_a_text_about_the_tag_stays_a_text(question: str) -> None:
    """E5."""
    assert parsed(text_record(conversations=conversation([(question, "So.")]))).turns == [(question, "So.")]


def test_a_visual_in_a_turn_is_named() -> None:
    turns = conversation([("Who?", "A man.")])
    turns[0]["image"] = "a.jpg"
    with pytest.raises(ValueError, match="'t1' has a turn that names a visual as 'image'"):
        parsed(text_record(conversations=turns))
    turns = conversation([("Who?", "A man.")])
    turns[0]["shown"] = "x/a.MP4"
    with pytest.raises(ValueError, match="'r1' has a turn that names a visual as 'shown'"):
        parsed(record(conversations=turns))


def test_a_second_visual_is_named_and_a_repeated_path_is_none() -> None:
    with pytest.raises(ValueError, match="'r1' names what it shows as 'images'"):
        parsed(record(images=["b.jpg"]))
    assert parsed(image_record(image="folder/a.jpg", image_path="a.jpg", image_id=7)).kind == "image"
    with pytest.raises(ValueError, match="'i1' names what it shows as 'image_path'"):
        parsed(image_record(image="folder/a.jpg", image_path=["a.jpg", "b.jpg"]))


def test_metadata_and_empty_keys_are_no_visuals() -> None:
    empty: dict[str, Any] = {"model": "", "images": [], "has_image": False, "num_frames": 3, "scene_id": "s"}
    assert parsed(text_record(**empty)).kind is None
    assert parsed(record(duration=3.5, fps=30, data_source="x", video_id="q", created_time=5)).kind == "video"
    assert parsed(record(frame_rate=30, clip_duration=3.5, video_length=4, prompt_id="p")).kind == "video"
    assert parsed(text_record(note="See page 3 of\na.jpg", image_size=[480, 640], start_time=3)).kind is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("start_time", 3),
        ("begin", 0.5),
        ("timestamps", [1.5, 2]),
        ("timestamp", "0:12-0:15"),
        ("clip_start", "3"),
        ("frames", [0, 10, 20]),
        ("segment", {"from": 1, "to": 2}),
        ("system_prompt", "Answer in one word."),
        ("system", "Be brief."),
        ("instruction", "Answer."),
    ],
)
def test_spans_and_instructions_that_are_not_read_are_named(key: str, value: Any) -> None:
    """E16."""
    with pytest.raises(ValueError, match=rf"record 'r1' has (a )?{key} "):
        parsed(record(**{key: value}))


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        ({"start": 3, "end": 7}, [3, 4, 5, 6]),
        ({"start": 2.5, "end": 5.5}, [3, 4, 5]),
        ({"start": 7}, [7, 8, 9]),
        ({"end": 2}, [0, 1]),
        ({"start": 0, "end": None}, list(range(10))),
        ({"start": 8, "end": 99}, [8, 9]),
    ],
)
def test_start_and_end_select_the_frames_between(tmp_path: Path, span: dict[str, Any], wanted: list[int]) -> None:
    """E16: seconds, the first included and the last not."""
    write_clip(tmp_path / "a.mp4", range(0, 10_000, 1000))
    shown = Record.parse({**record(), **span}, MediaFolders(videos=tmp_path), 1)
    assert [number_of(frame) for frame in decode_frames(shown, 1)] == wanted
    assert shown.window.count(10) == len(wanted)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"start": 7, "end": 3}, "'r1' has start 7 and end 3"),
        ({"start": 2.2, "end": 2.8}, "no frame"),
        ({"start": "3"}, "'r1' has start '3'"),
        ({"end": -1}, "'r1' has end -1"),
        ({"start": 1, "time": 4}, "'r1' has time and start"),
    ],
)
def test_spans_that_are_none_are_named(span: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(record(**span))


def test_the_check_and_the_start_of_training_list_them(tmp_path: Path) -> None:
    """E5: `videos_plural.json`, `no_media_key.json` and `text_about_the_tag.json` in one file."""
    asked = conversation([("<video>\nWhat is rolling?", "A red ball.")])
    about = conversation([("How do I loop a clip with the <video> tag in HTML?", "Add the attribute loop.")])
    rows: list[dict[str, Any]] = [
        {"conversations": asked, "videos": ["a.mp4"]},
        {"scene_id": "s1", "conversations": asked},
        {"id": "t", "conversations": about},
    ]
    data = write_records(tmp_path / "data.json", rows)
    assert cli.main(["check", f"--data_path={data}", f"--video_folder={tmp_path}", "--num_workers=0"]) == 1
    faults = json.loads((tmp_path / "data.faults.json").read_text())["faults"]
    assert [(fault["index"], fault["fault"]) for fault in faults] == [(0, "bad record"), (1, "bad record")]
    assert [fault.index for fault in survey(rows, FOLDERS, 1, "v1").faults] == [0, 1]
