"""The parser and the shared options of all commands: one word for one thing, checked in one place."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

DATA_ROOT = Path("data/eval_video")
# Options of earlier versions, in all commands, and their present names.
RENAMED = {
    "--video_fps": "--fps",
    "--memory_mode": "--memory",
    "--workers": "--num_workers",
    "--decode_workers": "--num_workers",
}


class CommandParser(argparse.ArgumentParser):
    """A parser that raises ValueError instead of ending the process, and names the new word for a renamed option.

    Args:
        name: The command, as in `flash-vstream NAME`.
        description: Usually the docstring of the command's module.
        renamed: Earlier options of this command: old name -> new name, or what to do instead of a removed option.
    """

    def __init__(
        self, name: str, description: str | None, renamed: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(
            prog=f"flash-vstream {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        self.renamed = {**RENAMED, **(renamed or {})}

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse does, after a look for renamed options."""
        own = {option for action in self._actions for option in action.option_strings}
        for word in args or ():
            option = word.split("=", 1)[0]
            if option in self.renamed and option not in own:
                instead = self.renamed[option]
                change = f"renamed: use {instead}" if instead.startswith("--") else f"removed: {instead}"
                raise ValueError(f"{option} was {change}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with argparse's message, which names the option."""
        raise ValueError(f"{message}; `{self.prog} --help` lists the options")


def add_model(parser: argparse._ActionsContainer) -> None:
    """--model_path: the checkpoint that a command opens."""
    parser.add_argument(
        "--model_path", metavar="DIR", help="checkpoint folder or hub id; default: the shipped tiny model"
    )


def add_device(parser: argparse._ActionsContainer) -> None:
    """--device: where the model runs."""
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: this process's GPU if there is one"
    )


def add_memory(parser: argparse._ActionsContainer) -> None:
    """--memory: another memory mode than the checkpoint's."""
    from flash_vstream.memory.config import MODES

    parser.add_argument(
        "--memory",
        choices=MODES,
        help="memory to use instead of the checkpoint's; recent, uniform and merge are controls of the same size",
    )


def add_fps(parser: argparse._ActionsContainer, default: float = 1.0) -> None:
    """--fps: frames for each second of video."""
    parser.add_argument(
        "--fps", type=positive_float, default=default, metavar="N", help="frames for each second of video (%(default)s)"
    )


def add_engine(parser: argparse._ActionsContainer) -> None:
    """--engine: what answers."""
    parser.add_argument(
        "--engine",
        default="local",
        metavar="local|vllm=URL|openai=URL",
        help="what answers: the model in this process; a vLLM server of the same checkpoint, with this package as its "
        "plug-in; or any OpenAI-compatible vision model, which is shown the pictures that the memory holds. URL may "
        "end in ?model=NAME&pictures=8&timeout=120; the environment variable VSTREAM_ENGINE_API_KEY has its key "
        "(%(default)s)",
    )


def add_data_root(parser: argparse._ActionsContainer) -> None:
    """--data_root: the folder of the benchmarks."""
    parser.add_argument(
        "--data_root", type=Path, default=DATA_ROOT, metavar="DIR", help="folder of the benchmarks (%(default)s)"
    )


def positive_int(text: str, least: int = 1) -> int:
    """A whole number of at least 1, for `type=`."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
    return number


def non_negative_int(text: str) -> int:
    """A whole number of at least 0, for `type=`."""
    return positive_int(text, least=0)


def positive_float(text: str) -> float:
    """A finite number above 0, for `type=`."""
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def non_negative_float(text: str) -> float:
    """A finite number of at least 0, for `type=`."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
