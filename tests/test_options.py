"""The shared options: their checks, and the errors for renamed ones."""

from __future__ import annotations

import pytest

from flash_vstream.options import CommandParser, add_fps, positive_int


def parser() -> CommandParser:
    command = CommandParser("example", "An example.", renamed={"--old": "--new"})
    add_fps(command)
    command.add_argument("--count", type=positive_int, default=1)
    return command


@pytest.mark.parametrize(("old", "new"), [("--video_fps", "--fps"), ("--old", "--new")])
def test_a_renamed_option_names_the_new_one(old: str, new: str) -> None:
    for words in ([old, "2"], [f"{old}=2"]):
        with pytest.raises(ValueError, match=old) as error:
            parser().parse_args(words)
        assert new in str(error.value)


@pytest.mark.parametrize(
    "words", [["--fps", "0"], ["--fps", "nan"], ["--fps", "x"], ["--count", "0"], ["--count", "1.5"]]
)
def test_a_bad_value_names_option_and_value(words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        parser().parse_args(words)
    assert words[1] in str(error.value)


def test_good_values() -> None:
    options = parser().parse_args(["--fps", "0.5", "--count", "3"])
    assert (options.fps, options.count) == (0.5, 3)
    assert parser().parse_args([]).fps == 1.0


def test_an_option_is_not_abbreviated() -> None:
    with pytest.raises(ValueError, match="--cou"):
        parser().parse_args(["--cou", "3"])
