"""flash-vstream live: plays a video as a live stream and answers questions about it while it plays.

    flash-vstream live                                       the shipped clip and model
    flash-vstream live --video_file FILE --ask "30: What is in the room?"

In a terminal it takes questions at any moment. Elsewhere it asks those of --ask, or the lines of standard input: a
plain line when it arrives, "SECONDS: question" at that stream time; "/save FILE" saves the session. The exit code is 1
if an answer could not be generated, 3 if a camera was lost for good.

--engine lets another server answer, with the memory's tokens (vLLM) or with the pictures that the memory holds (any
OpenAI-compatible vision model).

A camera that goes away is reconnected: the memory is kept, the stream time continues with the clock, and a line says
how long there was no picture.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

from flash_vstream.engine.address import LOCAL
from flash_vstream.engine.pictures import PictureEngine
from flash_vstream.options import (
    CommandParser,
    add_device,
    add_engine,
    add_fps,
    add_memory,
    add_model,
    positive_float,
    positive_int,
)
from flash_vstream.serve import plain
from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.gallery import Gallery
from flash_vstream.serve.loop import AnswerError
from flash_vstream.serve.opening import open_model
from flash_vstream.serve.questions import Schedule, parse, read_file
from flash_vstream.serve.session import DEFAULT_MAX_NEW_TOKENS, StreamSession
from flash_vstream.video import TIMEOUT_S, FrameBuffer, SourceEvent, SourceLost, is_camera, masked, open_source

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CLIP = ASSETS / "clip.mp4"
CLIP_QUESTIONS = ASSETS / "clip.json"
NO_ANSWER = 1
CAMERA_LOST = 3
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
        help="a video file, a directory of frames, an rtsp/http/udp address, an .sdp file, - for a pipe, or a webcam "
        "(/dev/video0, webcam:0); default: the shipped clip",
    )
    add_model(options)
    add_fps(options)
    add(
        "--play_speed",
        type=_speed,
        default=1.0,
        metavar="X",
        help="stream seconds for each second of the clock; inf: as fast as possible, drops nothing; cameras keep their "
        "own time (%(default)s)",
    )
    add(
        "--reconnect",
        type=_reconnect,
        metavar="SECONDS|never|forever",
        help="how long a camera may be away before the stream counts as lost (cameras: forever; named pipes: never)",
    )
    add(
        "--timeout",
        type=positive_float,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="silence after which a connection counts as lost; give more for a camera that sends a picture a minute "
        "(%(default)s)",
    )
    add(
        "--follow",
        action="store_true",
        help="the file or directory is still being written: wait for more, and end when nothing comes for --timeout "
        "seconds",
    )
    add("--rtsp_transport", choices=("tcp", "udp"), default="tcp", help="how RTSP cameras send (%(default)s)")
    add(
        "--ffmpeg_option",
        action="append",
        type=_ffmpeg_option,
        default=[],
        metavar="NAME=VALUE",
        help="an option of FFmpeg for an address, for example live_start_index=-1; repeatable",
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
    add_engine(options)
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
    source = open_source(
        video,
        fps=options.fps,
        play_speed=options.play_speed,
        timeout_s=options.timeout,
        reconnect_s=options.reconnect,
        rtsp_transport=options.rtsp_transport,
        ffmpeg_options=dict(options.ffmpeg_option),
        follow=options.follow,
    )
    session = _open_session(options)
    seen_s = session.snapshot.time_s
    # Opened last: a command that is refused leaves no file behind.
    with contextlib.closing(session.engine), contextlib.closing(EventLog(options.log_file)) as log:
        # Each of the two is None if it was closed.
        terminals = [stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)]
        is_interactive = all(terminals) and not options.ask

        def on_event(event: SourceEvent) -> None:
            log.source(event)
            plain.show_event(event)

        buffer = FrameBuffer(source, start_s=0.0 if seen_s is None else seen_s + 1 / options.fps, on_event=on_event)
        _introduce(options, session, is_clip)
        log.write(
            "start",
            video=masked(video),
            model=options.model_path,
            engine=masked(options.engine),
            memory=session.model.config.memory.to_dict(),
            video_fps=options.fps,
            play_speed=str(options.play_speed),
            resume=options.resume,
        )
        demo = read_file(CLIP_QUESTIONS) if is_clip else []
        if is_interactive:
            # Only here: nothing else needs prompt_toolkit.
            from flash_vstream.serve.terminal import Terminal

            Terminal(buffer, session, log, options.max_new_tokens, [question.text for question in demo[:3]]).run()
            return 0
        takes_lines = not (options.ask or sys.stdin is None or _is_standard_input(video))
        if takes_lines and terminals[0]:
            print(
                "The output is not a terminal, so there is no prompt: type a question and press Enter.", file=sys.stderr
            )
        pipe = sys.stdin.fileno() if takes_lines else None
        try:
            plain.run(buffer, session, schedule, log, options.max_new_tokens, pipe, demo)
        except AnswerError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return NO_ANSWER
        except SourceLost as error:
            print(f"error: {error}", file=sys.stderr)
            return CAMERA_LOST
    return 0


def _speed(text: str) -> float:
    return math.inf if text == "inf" else positive_float(text)


def _reconnect(text: str) -> float:
    """Seconds, "never" or "forever"."""
    words = {"never": 0.0, "forever": math.inf}
    return words[text] if text in words else positive_float(text)


def _ffmpeg_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def _open_session(options: argparse.Namespace) -> StreamSession:
    model, processor, engine = open_model(options)
    gallery = Gallery() if isinstance(engine, PictureEngine) else None
    if options.resume is None:
        return StreamSession(model, processor, engine, gallery=gallery)
    return StreamSession.load(model, processor, options.resume, engine, gallery=gallery)


def _introduce(options: argparse.Namespace, session: StreamSession, is_clip: bool) -> None:
    memory = session.model.config.memory
    print(f"model: {options.model_path or 'the shipped tiny model'} on {session.model.device}, memory: {memory.mode}")
    if options.engine != LOCAL:
        print(f"answers: {masked(options.engine)}")
    speed = "as fast as possible" if options.play_speed == math.inf else f"at {options.play_speed:g} times its own pace"
    if options.video_file and is_camera(options.video_file):
        speed = "at its own pace"
    video = "the shipped clip" if is_clip else masked(options.video_file)
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
