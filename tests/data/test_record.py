"""A record is parsed once: its turns, its file and its frames; what is invalid is named with the record's id."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flash_vstream.data import ConversationDataset, MediaFolders, Record
from flash_vstream.data.dataset import decode_frames, read_features
from flash_vstream.data.record import record_id
from flash_vstream.features.file import FeatureFile, FeatureSpec
from tests.conftest import TinyModel
from tests.data.files import conversation, image_record, record, text_record, write_picture
from tests.video.clips import number_of, write_clip

LENGTH = 20  # seconds of video and features
N_PATCHES, WIDTH = 16, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 with two frames a second, numbered; features at 1 and 2 frames a second whose values are their numbers."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "a.mp4", range(0, LENGTH * 1000, 500))
    for fps in (1, 2):
        numbers = torch.arange(LENGTH * fps).view(-1, 1, 1).expand(-1, N_PATCHES, WIDTH).half()
        FeatureFile.write(folder / str(fps) / "a.safetensors", numbers, {"fps": f"{fps}.0"})
    return folder


def parsed(fields: dict[str, Any], fps: float = 1, **folders: Path) -> Record:
    return Record.parse(fields, MediaFolders(**(folders or {"images": Path("i"), "videos": Path("v")})), fps)


def span(start: int, stop: int, step: int = 1) -> list[int]:
    return list(range(start, stop, step))


@pytest.mark.parametrize(
    ("moment", "at_1", "at_2"),
    [
        ({}, span(0, 20), span(0, 40)),
        ({"time": 7.6}, [7], [15]),
        ({"time": 0}, [0], [0]),
        ({"end_time": 7.6}, span(0, 8), span(0, 16)),
        ({"end_time": 0}, [0], [0]),
        ({"end_time": 500}, span(0, 20), span(0, 40)),
        ({"time_9": 8}, span(4, 13), span(8, 25, 2)),
        ({"time_9": 7.6}, span(3, 12), span(7, 24, 2)),
        ({"time_9": 1}, span(0, 6), span(0, 11, 2)),
        ({"time_9": 19}, span(15, 20), span(30, 40, 2)),
        ({"time_9dense": 8}, span(4, 13), span(12, 21)),
        ({"time_9dense": 1}, span(0, 6), span(0, 7)),
        ({"time_9dense": 19}, span(15, 20), span(34, 40)),
    ],
)
def test_moments_are_the_same_in_features_and_frames(
    folder: Path, moment: dict[str, float], at_1: list[int], at_2: list[int]
) -> None:
    for fps, wanted in ((1, at_1), (2, at_2)):
        extracted = parsed(record(**moment), fps, video_features=folder / str(fps))
        features = read_features(extracted, FeatureSpec(), fps)
        assert features[:, 0, 0].tolist() == wanted
        assert features.shape[1:] == (N_PATCHES, WIDTH)
        frames = decode_frames(parsed(record(**moment), fps, videos=folder), fps)
        assert [number_of(frame) * fps // 2 for frame in frames] == wanted
        assert len(wanted) <= extracted.window.n_frames
        assert len(wanted) == extracted.window.count(LENGTH * fps)


@pytest.mark.parametrize("moment", [{"time": 20}, {"time_9": 20.5}, {"time_9": 30}, {"time_9dense": 21}])
def test_moments_past_the_end_are_named(folder: Path, moment: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a\.safetensors (has no frame from|ends before the second that record 'r1')"):
        read_features(parsed(record(**moment), video_features=folder / "1"), FeatureSpec(), 1)
    with pytest.raises(ValueError, match=r"a\.mp4 ends (at 19|before the second that record 'r1')"):
        list(decode_frames(parsed(record(**moment), videos=folder), 1))


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ({"time": -1}, "'r1' has time -1"),
        ({"time_9": "3"}, "'r1' has time_9 '3'"),
        ({"end_time": float("nan")}, "'r1' has end_time nan"),
        ({"time_9dense": True}, "'r1' has time_9dense True"),
        ({"time": 1, "end_time": 2}, "'r1' has time and end_time: give one of them"),
    ],
)
def test_moments_that_are_none_are_named(moment: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(record(**moment))


def test_a_file_is_looked_for_where_its_kind_is(tmp_path: Path) -> None:
    features: dict[str, Any] = {"image_features": Path("if"), "video_features": Path("vf")}
    assert parsed(text_record()).path is None
    assert parsed(record(video="p/a.b.mp4"), **features).path == Path("vf/p/a.b.safetensors")
    assert parsed(image_record(image="coco/a.jpg"), **features).path == Path("if/coco/a.safetensors")
    assert parsed(record(video="p/a.mp4")).path == Path("v/p/a.mp4")
    assert parsed(image_record()).path == Path("i/a.jpg")
    with pytest.raises(ValueError, match=r"'i1' .*a\.jpg .* --image_folder or --image_feature_folder"):
        parsed(image_record(), videos=tmp_path)
    with pytest.raises(ValueError, match=r"'r1' .*a\.mp4 .* --video_folder"):
        parsed(record(), images=tmp_path)


def test_pictures_are_what_is_in_them(tmp_path: Path) -> None:
    """The real data has GIF and PNG files behind `.jpg`, and some that are called so too."""
    red, frames = [255, 0, 0], [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.jpg", format="GIF", save_all=True, append_images=frames[1:])
    write_picture(tmp_path / "still.jpg", (6, 4), kind="PNG")
    Image.new("RGBA", (6, 4), (255, 0, 0, 255)).save(tmp_path / "clear.jpg", format="PNG")
    frames[0].convert("P").save(tmp_path / "palette.gif")
    write_picture(tmp_path / "other.png", (6, 4), kind="PNG")
    for name in ("moving.jpg", "still.jpg", "clear.jpg", "palette.jpg", "other.jpg"):
        (picture,) = decode_frames(parsed(image_record(image=name), images=tmp_path), 1)
        assert picture.shape == (4, 6, 3) and picture.dtype == np.uint8
        assert (picture == red).all(), name
    grey = Image.new("L", (6, 4), 77)
    grey.save(tmp_path / "other.jpg", format="PNG")  # now there is one of that very name
    (picture,) = decode_frames(parsed(image_record(image="other.jpg"), images=tmp_path), 1)
    assert (picture == 77).all()


def test_pad_puts_the_whole_picture_on_the_mean_colour(tmp_path: Path, tiny_model: TinyModel) -> None:
    processor = tiny_model[1]
    write_picture(tmp_path / "a.jpg", (64, 32), "white", "PNG")
    mean, std = torch.tensor(processor.frames.mean), torch.tensor(processor.frames.std)

    def pixels(aspect: str) -> torch.Tensor:
        """The levels 0 to 255 that the model sees, [S, S, 3]."""
        items = ConversationDataset([image_record()], processor, "v1", MediaFolders(images=tmp_path), aspect=aspect)
        return (items[0]["visual"].values[0].permute(1, 2, 0) * std + mean) * 255

    torch.testing.assert_close(pixels("plain"), torch.full((16, 16, 3), 255.0))
    padded = pixels("pad")
    for row in (0, 1, 14, 15):
        torch.testing.assert_close(padded[row], (mean * 255).floor().expand(16, 3), rtol=0, atol=1.1)
    torch.testing.assert_close(padded[6:10], torch.full((4, 16, 3), 255.0), rtol=0, atol=1.1)


def test_videos_are_not_padded(folder: Path, tiny_model: TinyModel) -> None:
    items = [
        ConversationDataset([record(time=3)], tiny_model[1], "v1", MediaFolders(videos=folder), aspect=aspect)[0]
        for aspect in ("plain", "pad")
    ]
    assert torch.equal(items[0]["visual"].values, items[1]["visual"].values)


def test_features_at_another_rate_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.safetensors has 2\.0 frames a second, not 1"):
        read_features(parsed(record(), video_features=folder / "2"), FeatureSpec(), 1)
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(3, 4, 5), {"fps": "one"})
    with pytest.raises(ValueError, match=r"a\.safetensors has one frames a second"):
        read_features(parsed(record(), video_features=tmp_path), FeatureSpec(), 1)
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(3, 4, 5), {})
    assert read_features(parsed(record(), video_features=tmp_path), FeatureSpec(), 1).shape == (3, 4, 5)


def test_features_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    """An animation that was extracted as an image has one frame only, and would train as a video of it."""
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(4, 5), {})
    assert read_features(parsed(image_record(), image_features=tmp_path), FeatureSpec(), 1).shape == (1, 4, 5)
    with pytest.raises(ValueError, match=r"a\.safetensors is of an image, .* --animations video"):
        read_features(parsed(record(), video_features=tmp_path), FeatureSpec(), 1)
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(3, 4, 5), {})
    with pytest.raises(ValueError, match=r"a\.safetensors has 3 frames"):
        read_features(parsed(image_record(), image_features=tmp_path), FeatureSpec(), 1)


def test_a_time_that_is_a_frames_own_means_that_frame() -> None:
    assert 0.29 * 100 < 29 and 0.07 * 100 > 7  # what products of floats are
    assert parsed(record(time=0.29), 100).window[:2] == (29, 30)


def test_the_placeholder_moves_to_the_front_of_the_first_question() -> None:
    for mark in ("<image>", "<video>"):
        for first, second in ((f"{mark}\nWhat?", "Where?"), (f"What?\n{mark}", "Where?"), ("What?", f"Where? {mark}")):
            turns = parsed(record(conversations=conversation([(first, "a"), (second, "b")]))).turns
            assert turns == [("<image>\nWhat?", "a"), ("Where?", "b")]
    assert parsed(text_record()).turns == [("Is water wet?", "yes"), ("And ice?", "no")]
    # To write about a web page's video is not to show one.
    web = text_record(conversations=conversation([("What is <video>?", "<video> plays a video.")]))
    assert parsed(web).turns == [("What is <video>?", "<video> plays a video.")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversations": None}, "'r1' has no turns"),
        ({"conversations": "a"}, "'r1' has no turns"),
        ({"conversations": []}, "'r1' has 0 turns"),
        ({"conversations": conversation([("a", "b")])[:1]}, "'r1' has 1 turns"),
        ({"conversations": conversation([("a", "b")])[::-1]}, "'r1' has turns .*must be human, gpt"),
        ({"conversations": [{"from": "human", "value": "a"}] * 2}, "'r1' has turns .*must be human, gpt"),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]}, "'r1' has the turn .*a text as its"),
        ({"conversations": ["human", "gpt"]}, "'r1' has the turn 'human'"),
        ({"conversations": conversation([("a", "<image>")])}, "'r1' has an image placeholder in an answer"),
        ({"conversations": conversation([("a", "<video>")])}, "'r1' has an image placeholder in an answer"),
        ({"conversations": conversation([("<image> <video>", "b")])}, "'r1' has 2 image placeholders but one image"),
        ({"video": None}, "'r1' has 1 image placeholders but neither"),
        ({"image": "a.jpg"}, "'r1' has both an image and a video"),
        ({"video": ["a.mp4", "b.mp4"]}, "'r1' has the video .*one file"),
        ({"video": ""}, "'r1' has the video ''"),
        (
            {"conversations": conversation([("a", "so \ud83d")])},
            r"'r1' contains an unpaired surrogate .*'so \\ud83d'",
        ),
        ({"video": "\ud83d.mp4"}, r"'r1' contains an unpaired surrogate near '\\ud83d.mp4'"),
    ],
)
def test_records_that_cannot_be_learnt_from_are_named(changes: dict[str, Any], message: str) -> None:
    bad = record(**changes)
    before = copy.deepcopy(bad)
    with pytest.raises(ValueError, match=message):
        parsed(bad)
    assert bad == before


def test_a_record_is_called_by_its_id_or_its_place() -> None:
    assert record_id(image_record(id=7), 3) == "7"
    assert record_id({}, 3) == "#3"
    assert record_id({"id": "half \ud83d"}, 3) == "half \\ud83d"  # which can be printed
