"""flash-vstream live: plays a video as a live stream and answers questions about it while it plays.

    flash-vstream live                                       the shipped clip and model
    flash-vstream live --video_file FILE --ask "30: What is in the room?"

In a terminal it takes questions at any moment. Elsewhere it asks those of --ask, or the lines of standard input: a
plain line when it arrives, "SECONDS: question" at that stream time. The exit code is 1 if an answer could not be
generated.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

import torch
import transformers

from flash_vstream.model import load
from flash_vstream.options import CommandParser, add_device, add_fps, add_memory, add_model, positive_int
from flash_vstream.process import Process
from flash_vstream.serve import plain
from flash_vstream.serve.loop import AnswerError, EventLog
from flash_vstream.serve.questions import Schedule, parse, read_file
from flash_vstream.serve.session import DEFAULT_MAX_NEW_TOKENS, StreamSession
from flash_vstream.video import FrameBuffer, open_source

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CLIP = ASSETS / "clip.mp4"
CLIP_QUESTIONS = ASSETS / "clip.json"
NO_ANSWER = 1
TINY_MODEL_NOTE = (
    "The shipped tiny model knows only its own synthetic world; its answers about this video mean nothing. "
    "For real video give a trained model: --model_path."
)


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream live`."""
    options = CommandParser("live", __doc__)
    add = options.add_argument
    add(
        "--video_file",
        metavar="SOURCE",
        help="a video file, a directory of frames, an rtsp/http/udp address, - for a pipe, or a webcam (/dev/video0, "
        "webcam:0); default: the shipped clip",
    )
    add_model(options)
    add_fps(options)
    add(
        "--play_speed",
        type=float,
        default=1.0,
        metavar="X",
        help="stream seconds for each second of the clock; inf: as fast as possible, drops nothing (%(default)s)",
    )
    add(
        "--ask",
        action="append",
        default=[],
        metavar='"SECONDS: QUESTION"',
        help="ask at this stream time, and exit when all is answered; repeatable",
    )
    add(
        "--resume",
        metavar="FILE",
        help="continue a saved session: its memory is kept, and its stream time continues with this stream",
    )
    add_memory(options)
    add(
        "--max_new_tokens",
        type=positive_int,
        default=DEFAULT_MAX_NEW_TOKENS,
        metavar="N",
        help="where a long answer is cut (%(default)s)",
    )
    add("--log_file", metavar="FILE", help="append questions, answers and times to this file as JSON lines")
    add_device(options)
    return options


def run(options: argparse.Namespace) -> int:
    """Play the stream and answer; returns 1 if an answer could not be generated."""
    video = str(CLIP) if options.video_file is None else options.video_file
    is_clip = Path(video).is_file() and CLIP.samefile(video)
    schedule = Schedule([parse(line, need_time=True) for line in options.ask])
    source = open_source(video, fps=options.fps, play_speed=options.play_speed)
    session = _open_session(options)
    seen_s = session.snapshot.time_s
    buffer = FrameBuffer(source, start_s=0.0 if seen_s is None else seen_s + 1 / options.fps)
    # Opened last: a command that is refused leaves no file behind.
    with contextlib.closing(EventLog(options.log_file)) as log:
        _introduce(options, session, is_clip)
        log.write(
            "start",
            video=video,
            model=options.model_path,
            memory=session.model.config.memory.to_dict(),
            video_fps=options.fps,
            play_speed=str(options.play_speed),
            resume=options.resume,
        )
        demo = read_file(CLIP_QUESTIONS) if is_clip else []
        # Each of the two is None if it was closed.
        terminals = [stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)]
        if all(terminals) and not options.ask:
            # Only here: nothing else needs prompt_toolkit.
            from flash_vstream.serve.terminal import Terminal

            Terminal(buffer, session, log, options.max_new_tokens, [question.text for question in demo[:3]]).run()
            return 0
        takes_lines = not (options.ask or sys.stdin is None or terminals[0] or _is_standard_input(video))
        pipe = sys.stdin.fileno() if takes_lines else None
        try:
            plain.run(buffer, session, schedule, log, options.max_new_tokens, pipe, demo)
        except AnswerError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return NO_ANSWER
    return 0


def _open_session(options: argparse.Namespace) -> StreamSession:
    # transformers' progress bars and hints are for developers, and would disturb the prompt.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    device = Process().device(options.device)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model, processor = load(options.model_path, device=device, dtype=dtype, memory_mode=options.memory)
    is_new = options.resume is None
    return StreamSession(model, processor) if is_new else StreamSession.load(model, processor, options.resume)


def _introduce(options: argparse.Namespace, session: StreamSession, is_clip: bool) -> None:
    memory = session.model.config.memory
    print(f"model: {options.model_path or 'the shipped tiny model'} on {session.model.device}, memory: {memory.mode}")
    speed = "as fast as possible" if options.play_speed == math.inf else f"at {options.play_speed:g} times its own pace"
    video = "the shipped clip" if is_clip else options.video_file
    print(f"stream: {video}, {options.fps:g} frames a second, {speed}")
    if options.resume is not None:
        seen = session.snapshot
        print(f"session: {options.resume}, {seen.n_frames} frames watched up to {seen.time_s or 0.0:.1f} s")
    if options.model_path is None and not is_clip:
        print(TINY_MODEL_NOTE)
    print(end="", flush=True)


def _is_standard_input(video: str) -> bool:
    """Whether the video comes from standard input (-, /dev/stdin, ...)."""
    try:
        return video == "-" or os.path.samestat(os.stat(video.removeprefix("file://")), os.fstat(sys.stdin.fileno()))
    except OSError:  # no file, but an address
        return False
