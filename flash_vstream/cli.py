"""The command line: `flash-vstream COMMAND`, or `python -m flash_vstream COMMAND`.

Each command is a module with two functions, `parser()` and `run(options)`, and is imported only when it is asked for.
This file starts a command, in several processes where it can use them, and decides how it ends: exit code 0, 1 if the
command found faults, 2 with one line on stderr after bad input, 130 after Ctrl-C, 141 if nobody reads its output.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flash_vstream

FAULTS_FOUND = 1
BAD_INPUT = 2
INTERRUPTED = 130
OUTPUT_CLOSED = 141


class Command(NamedTuple):
    """A command: its module, one line of help, and whether it shares its work among several processes."""

    module: str
    help: str
    parallel: bool = False


COMMANDS = {
    "live": Command("flash_vstream.serve.command", "watch a video or camera as a live stream and answer questions"),
    "serve": Command("flash_vstream.service.command", "watch many streams and answer about them over HTTP"),
    "eval": Command("flash_vstream.eval.run", "answer the questions of benchmarks, judge the answers, report", True),
    "choose": Command("flash_vstream.eval.run", "the same for multiple choice: OVO-Bench, MLVU, ...", True),
    "judge": Command("flash_vstream.eval.judging.command", "judge the predictions of a results folder"),
    "report": Command("flash_vstream.eval.reporting.command", "print a results folder; compare two"),
    "ablate": Command("flash_vstream.eval.ablate", "score a model with every memory and control"),
    "prepare": Command("flash_vstream.eval.benchmarks.prepare", "convert a benchmark's original files"),
    "train": Command("flash_vstream.train.train", "train one stage", True),
    "assemble": Command("flash_vstream.train.assemble", "make the model that stage 1 starts from"),
    "merge": Command("flash_vstream.train.merge", "merge an adapter into its base model"),
    "extract": Command("flash_vstream.features.extract", "encode images and videos to feature files", True),
    "check": Command("flash_vstream.data.check", "find records that cannot be trained on"),
    "recipe": Command("flash_vstream.recipe", "run a whole training from one YAML file"),
    "build": Command("flash_vstream.synthetic.build", "train the tiny model from nothing"),
    "package": Command("flash_vstream.synthetic.package", "ship a tiny model as the package's default"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        print(_help())
        return 0
    if words == ["--version"]:
        print(flash_vstream.__version__)
        return 0
    return finish(lambda: run(words))


def run(words: Sequence[str]) -> int | None:
    """Run `COMMAND OPTIONS`. Raises ValueError for an unknown command or an option that it does not take."""
    if not words or words[0] not in COMMANDS:
        asked = f"there is no command {words[0]!r}" if words else "no command is given"
        raise ValueError(f"{asked}: use one of {', '.join(COMMANDS)} (`flash-vstream --help` explains them)")
    name, *arguments = words
    command = COMMANDS[name]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn when data workers are forked
    # No command needs torchvision, which other packages bring; one that is built for another torch, as beside a CPU
    # build, makes transformers fail at import. None: it counts as absent.
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]
    # Ctrl-C during imports, which take seconds, can surface as a misleading ImportError: let it end the process.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = importlib.import_module(command.module)
    signal.signal(signal.SIGINT, handler)
    parser = module.parser()
    parser.prog = f"flash-vstream {name}"  # eval and choose share a module
    options = parser.parse_args(arguments)
    if command.parallel and "RANK" not in os.environ:
        from flash_vstream.process import Launch

        launch = Launch.from_environment()
        if launch.world_size > 1:
            return subprocess.run(launch.command(name, arguments), check=False).returncode
    return module.run(options)


def finish(work: Callable[[], int | None]) -> int:
    """The exit code of a command: that of `work` (None: 0), 2 after bad input, 130 after Ctrl-C, 141 without a reader.

    Bad input is a ValueError or an OSError; it is printed in one line. Any other error is a fault of the program and
    keeps its traceback.
    """
    try:
        return work() or 0
    except BrokenPipeError:  # the reader of stdout is gone, as after `| head`; the exit would fail to flush to it, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except (ValueError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {'' if rank == '0' else f'process {rank}: '}{_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED


def _one_line(error: Exception) -> str:
    """The message in one line. A data worker's error carries that process's traceback: only its last line is kept."""
    text = str(error)
    if "in DataLoader worker process" in text.partition("\n")[0]:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return " ".join(text.split())


def _help() -> str:
    lines = [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: flash-vstream COMMAND [OPTIONS]",
            "",
            "A video-language model that watches an endless stream and answers questions about it at any moment.",
            "",
            "commands:",
            *lines,
            "",
            "`flash-vstream COMMAND --help` lists the options of a command.",
        ]
    )


def entry() -> None:
    """Entry point of the installed script: runs `main` and ends the process."""
    code = main()
    if code == 0 and "torch" in sys.modules:
        from flash_vstream.process import leave

        leave()
    sys.exit(code)
