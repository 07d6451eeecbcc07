"""Draw the memory after a video: the frames of each centroid, its weight, the key frames and the newest frame.

python scripts/draw_memory.py --output docs/memory_shipped.png                        the shipped clip
python scripts/draw_memory.py --video_file FILE --output docs/memory_real.png         another video
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import flash_vstream
from flash_vstream.cli import finish
from flash_vstream.memory.star import StarState
from flash_vstream.model import load
from flash_vstream.options import add_fps, add_model
from flash_vstream.video import read_frames

CLIP = Path(flash_vstream.__file__).parent / "assets" / "clip.mp4"
STRIP = 10  # frames of the video above the time axis
Frames = dict[float, np.ndarray]  # time in seconds -> uint8 [H, W, 3]


class Members:
    """The frames of each centroid. The memory itself keeps only the weight and the mean time of a centroid."""

    def __init__(self) -> None:
        self.times: dict[int, list[float]] = {}  # slot of the centroid -> times of its frames, in seconds

    def follow(self, before: StarState, after: StarState) -> None:
        """Record an update by one frame: the frame that left the window became a centroid, and two may have merged."""
        if after.clusters is None:
            return
        slot = 0 if before.clusters is None else before.clusters.free
        self.times[slot] = [float(time) for time in (before.spatial_times[:1] if len(before.window) else [])]
        for removed in set(self.times) - set(after.clusters.order):
            merged = next(
                s for s in self.times if s != removed and len(self.times[s]) < round(after.clusters.weights[s])
            )
            self.times[merged] += self.times.pop(removed)

    def in_order(self, state: StarState) -> list[list[float]]:
        """The times of each centroid's frames; centroids in the order of the memory."""
        assert state.clusters is not None
        return [sorted(self.times[slot]) for slot in state.clusters.order]


def watch(video: str, model_path: str | None, fps: float) -> tuple[StarState, Members, Frames]:
    """Watch the whole video.

    Returns:
        The state of the memory, the members of its centroids, and all frames by their times.

    Raises:
        ValueError: The checkpoint's memory is not star, or the memory holds no centroid after the video.
    """
    model, processor = load(model_path)
    if (mode := model.config.memory.mode) != "star":
        raise ValueError(f"the checkpoint's memory is {mode!r}: give a --model_path whose memory is 'star'")
    state, members, frames = cast(StarState, model.memory.init_state()), Members(), {}
    for frame, time_s in read_frames(video, fps):
        with torch.inference_mode():
            features = model.encode_frames(processor.frames_to_pixels(frame[None]))
            following = cast(StarState, model.memory.update(state, features, times=[time_s]))
        members.follow(state, following)
        state, frames[time_s] = following, frame
    if state.clusters is None:
        raise ValueError(
            f"the memory holds no centroid after {video} (frames seen: {state.n_frames}): give a longer video, "
            "a higher --fps or a memory with a temporal_length above 0"
        )
    return state, members, frames


def draw(state: StarState, members: Members, frames: Frames, title: str, output: Path) -> None:
    """Write one picture: the video as a strip, the centroids over time with their weights, and the real frames."""
    groups = members.in_order(state)
    last = max(frames)
    figure = plt.figure(figsize=(12, 7.6))
    rows = figure.add_gridspec(2, 1, height_ratios=(5.6, 1.5), hspace=0.26)
    grid = rows[0].subgridspec(2, 2, height_ratios=(1, 4.6), width_ratios=(6, 1), hspace=0.04, wspace=0.04)

    strip = figure.add_subplot(grid[0, 0])
    shown = [min(frames, key=lambda t: abs(t - (k + 0.5) * last / STRIP)) for k in range(STRIP)]
    for number, time_s in enumerate(shown):
        strip.imshow(
            frames[time_s], extent=(number * last / STRIP, (number + 0.97) * last / STRIP, 0, 1), aspect="auto"
        )
    strip.set(xlim=(0, last), ylim=(0, 1), yticks=[], xticks=[], title=title)

    spans = figure.add_subplot(grid[1, 0])
    colours = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(groups)))
    for row, (times, colour) in enumerate(zip(groups, colours, strict=True)):
        spans.hlines(row, min(times), max(times), color=colour, alpha=0.35, linewidth=3)
        spans.plot(times, [row] * len(times), "|", color=colour, markersize=9)
    spans.plot(state.temporal_times, range(len(groups)), "k.", markersize=4, label="mean time of a centroid")
    for time_s in state.retrieved_times.tolist():
        spans.axvline(time_s, color="crimson", linewidth=1, linestyle=":")
    spans.plot([], [], color="crimson", linestyle=":", label="key frame")
    spans.set(xlim=(0, last), ylabel="centroid, in time order", xlabel="time of its frames (s)")
    spans.invert_yaxis()
    spans.legend(loc="lower left", fontsize=8)

    weights = figure.add_subplot(grid[1, 1], sharey=spans)
    weights.barh(range(len(groups)), state.temporal_weights, color=colours)
    weights.tick_params(labelleft=False)
    weights.set(xlabel="weight (frames)")

    places = rows[1].subgridspec(1, len(state.retrieved) + len(state.window))
    names = [f"key frame, {f.time:.0f} s" for f in state.retrieved] + [f"newest, {f.time:.0f} s" for f in state.window]
    for place, (name, frame) in enumerate(zip(names, (*state.retrieved, *state.window), strict=True)):
        picture = figure.add_subplot(places[0, place])
        picture.imshow(frames[frame.time])
        picture.set(title=name, xticks=[], yticks=[])
        picture.title.set_fontsize(9)
    figure.savefig(output, dpi=80, bbox_inches="tight")


def parser() -> argparse.ArgumentParser:
    """The options of the program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--video_file", default=str(CLIP), metavar="FILE", help="default: the shipped clip")
    add_model(options)
    add_fps(options)
    options.add_argument("--output", type=Path, required=True, metavar="FILE", help="picture to write")
    return options


def run(options: argparse.Namespace) -> None:
    """Watch the video and draw the memory."""
    state, members, frames = watch(options.video_file, options.model_path, options.fps)
    title = (
        f"The memory after {state.n_frames} frames of {Path(options.video_file).name}: {len(members.times)} centroids"
    )
    draw(state, members, frames, title, options.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    return finish(lambda: run(parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
