"""Measures reading a video: `read_frames` with PyAV and with decord, in CPU seconds, and whether the frames are equal.

    python -m benchmarks.video                        the shipped clip, and one of 45 minutes made from it
    python -m benchmarks.video --video_file a.mp4     the same with another clip

CPU seconds count the work of all threads and are the same on a busy machine. Each figure is the smallest of `--repeats`
runs, and includes opening the file, because the program opens a file for each record. The long clip is the given one,
encoded anew with x264's defaults (a key frame every 250 frames) and repeated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import decord
import numpy as np

from flash_vstream.video import read_frames
from flash_vstream.video.index import index_video

SHIPPED = Path(__file__).parent.parent / "flash_vstream/assets/clip.mp4"
Frames = list[np.ndarray]


def read(path: Path, starts: list[float], n_frames: int, fps: float, backend: str) -> Frames:
    """`n_frames` frames at `fps` from each of `starts`; the file is opened for each."""
    length = (n_frames - 0.5) / fps
    return [frame for start in starts for frame, _ in read_frames(path, fps, start, start + length, backend)]


def cpu_seconds(work: Callable[[], Frames], repeats: int) -> float:
    """The least CPU time of `work`."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def write_long(source: Path, path: Path, minutes: float) -> Path:
    """Encode `source` with x264's defaults and repeat its packets for `minutes`."""
    once = path.with_name("once.mp4")
    with av.open(str(source)) as container, av.open(str(once), "w") as output:
        given = container.streams.video[0]
        rate = Fraction(given.average_rate or 25)
        stream = output.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = given.width, given.height, "yuv420p"
        for k, frame in enumerate(container.decode(given)):
            frame.pts, frame.time_base = k, 1 / rate
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    with av.open(str(once)) as container:
        given = container.streams.video[0]
        assert given.time_base is not None and given.duration is not None
        with av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(given)
            for k in range(round(60 * minutes / float(given.duration * given.time_base))):
                container.seek(0)
                for packet in container.demux(given):
                    if packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + k * given.duration, packet.dts + k * given.duration
                        packet.stream = stream
                        output.mux(packet)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video_file", type=Path, default=SHIPPED, help="the short clip (default: the shipped one)")
    parser.add_argument("--minutes", type=float, default=45.0, help="length of the long clip")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"PyAV {av.__version__}, decord {decord.__version__}\n")
    print("| clip | task | PyAV, s | decord, s | decord / PyAV | frames that differ |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        long = write_long(options.video_file, Path(folder) / "long.mp4", options.minutes)
        for path in (options.video_file, long):
            index = index_video(path)
            places = np.random.default_rng(0).uniform(0, index.duration_s - 9, 10).tolist()
            tasks = {
                "in order, 1 frame a second": ([0.0], int(index.duration_s), 1.0),
                "in order, 8 frames a second": ([0.0], int(8 * min(index.duration_s, 240) - 8), 8.0),
                "32 frames evenly spread": ([0.0], 32, 32 / index.duration_s),
                "10 windows of 8 frames, 1 s apart": (places, 8, 1.0),
                "10 single frames at random": (places, 1, 1.0),
            }
            for name, (starts, n_frames, fps) in tasks.items():
                pyav, other = (partial(read, path, starts, n_frames, fps, backend) for backend in ("pyav", "decord"))
                differ = sum(not np.array_equal(one, two) for one, two in zip(pyav(), other(), strict=True))
                figures = [cpu_seconds(work, options.repeats) for work in (pyav, other)]
                print(
                    f"| {index.duration_s:.0f} s | {name} | {figures[0]:.2f} | {figures[1]:.2f} |"
                    f" {figures[1] / figures[0]:.2f} | {differ} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
