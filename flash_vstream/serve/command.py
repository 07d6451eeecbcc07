"""The real-time command line: plays a video as a live stream and answers questions about it while it plays.

    python -m flash_vstream.serve.command                                    the shipped clip and model
    python -m flash_vstream.serve.command --video_file FILE --ask "30: What is in the room?"

In a terminal it takes questions at any moment (`terminal`), otherwise those of --ask or standard input (`batch`).
What a user gave wrongly ends in one line on stderr and exit code 2, an answer that could not be generated in one and
exit code 1, Ctrl-C in exit code 130.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch
import transformers

from flash_vstream.model import load
from flash_vstream.serve import plain as batch
from flash_vstream.serve.loop import AnswerError, EventLog
from flash_vstream.serve.questions import Schedule, parse, read_file
from flash_vstream.serve.session import StreamSession
from flash_vstream.video import LiveSource, open_source

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CLIP = ASSETS / "clip.mp4"
CLIP_QUESTIONS = ASSETS / "clip.json"
TINY_MODEL_NOTE = (
    "The shipped tiny model knows only its own synthetic world; its answers about this video mean nothing. "
    "For real video give a trained model: --model_path."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help lists the options")


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = _Parser(
        prog="realtime_cli", description="Ask a live video stream questions while it plays.", allow_abbrev=False
    )
    add = options.add_argument
    add(
        "--video_file",
        metavar="SOURCE",
        help="a video file, a directory of frames, an rtsp/http/udp address, - for a pipe, or a webcam (/dev/video0, "
        "webcam:0); default: the shipped clip",
    )
    add("--model_path", metavar="DIR", help="a checkpoint directory; default: the shipped tiny model")
    add(
        "--video_fps",
        type=float,
        default=1.0,
        metavar="N",
        help="frames taken for each second of the stream (default 1)",
    )
    add(
        "--play_speed",
        type=float,
        default=1.0,
        metavar="X",
        help="stream seconds for each second of the clock; inf plays as fast as possible and drops nothing (default 1)",
    )
    add(
        "--ask",
        action="append",
        default=[],
        metavar='"SECONDS: QUESTION"',
        help="ask at this stream time, then exit; repeatable. Without it and without a terminal such lines are read "
        "from standard input; plain lines there are asked at the end",
    )
    add(
        "--memory",
        metavar="MODE",
        help="star, or a control of the same size: recent, uniform, merge; default: the checkpoint's",
    )
    add("--max_new_tokens", type=_positive, default=256, metavar="N", help="where a long answer is cut (default 256)")
    add("--log_file", metavar="FILE", help="append questions, answers and times to this file as JSON lines")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    if sys.stdout is None:  # where it was closed; the log and the exit code may still be wanted
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        _run(parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (as `| head` does); nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, AnswerError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, AnswerError) else 2
    return 0


def _run(options: argparse.Namespace) -> None:
    stdin_is_terminal = sys.stdin is not None and sys.stdin.isatty()  # it is None where it was closed
    interactive = not options.ask and stdin_is_terminal and sys.stdout.isatty()
    is_clip = options.video_file is None or _is_shipped_clip(options.video_file)
    video = str(CLIP) if options.video_file is None else options.video_file
    schedule = Schedule([parse(line, need_time=True) for line in options.ask])
    piped = None
    if not options.ask and sys.stdin is not None and not stdin_is_terminal and not _is_standard_input(video):
        piped = batch.PipedQuestions(sys.stdin.fileno(), schedule)
    frames = open_source(video, fps=options.video_fps, play_speed=options.play_speed)
    session = _open_session(options)
    demo = read_file(CLIP_QUESTIONS) if is_clip else []
    if piped is not None:
        piped.wait_for_first()
        piped.raise_error()

    log = EventLog(options.log_file)  # only now: a command that is refused leaves no file behind
    try:
        _introduce(options, session, is_clip)
        log.write(
            "start",
            video=video,
            model=options.model_path,
            memory=session.model.config.memory.to_dict(),
            video_fps=options.video_fps,
            play_speed=str(options.play_speed),
        )
        source = LiveSource(frames)
        if interactive:
            # Only here: nothing else needs prompt_toolkit.
            from flash_vstream.serve.terminal import Terminal

            examples = [question.text for question in demo[:3]]
            Terminal(source, session, log, options.max_new_tokens, examples).run()
        else:
            if len(schedule) == 0:
                # A pipe that is silent until now may be one that nobody writes to. If it speaks later it is heard, too.
                for question in demo:
                    schedule.add(question)
            batch.run(source, session, schedule, piped, log, options.max_new_tokens)
    finally:
        log.close()


def _open_session(options: argparse.Namespace) -> StreamSession:
    # Its progress bars and hints are for developers, and would run into the prompt.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model, processor = load(options.model_path, device=device, dtype=dtype, memory_mode=options.memory)
    return StreamSession(model, processor)


def _introduce(options: argparse.Namespace, session: StreamSession, is_clip: bool) -> None:
    memory = session.model.config.memory
    print(f"model: {options.model_path or 'the shipped tiny model'} on {session.model.device}, memory: {memory.mode}")
    speed = (
        "as fast as possible" if options.play_speed == float("inf") else f"at {options.play_speed:g} times its own pace"
    )
    video = "the shipped clip" if is_clip else options.video_file
    print(f"stream: {video}, {options.video_fps:g} frames a second, {speed}")
    if options.model_path is None and not is_clip:
        print(TINY_MODEL_NOTE)
    sys.stdout.flush()


def _is_standard_input(video: str) -> bool:
    """Whether the video comes from there, under whatever name (-, /dev/stdin, ...): then no questions do."""
    try:
        return video == "-" or os.path.samestat(os.stat(video.removeprefix("file://")), os.fstat(sys.stdin.fileno()))
    except OSError:  # no file, but an address
        return False


def _is_shipped_clip(video: str) -> bool:
    path = Path(video)
    return path.is_file() and CLIP.is_file() and path.samefile(CLIP)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; give at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
