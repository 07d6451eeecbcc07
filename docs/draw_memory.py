"""Draws what the memory holds after a video: which frames each centroid stands for, weights, and the key frames.

`python docs/draw_memory.py --output docs/memory_shipped.png` for the shipped clip, `--video_file` for another.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from flash_vstream.command import run_command
from flash_vstream.memory.star import StarState
from flash_vstream.model import load
from flash_vstream.serve.command import CLIP
from flash_vstream.video import read_frames

STRIP = 10  # frames of the video shown along the time axis


class Members:
    """Which frames each centroid stands for: the memory itself keeps only weights and mean times."""

    def __init__(self) -> None:
        self.slots: dict[int, list[float]] = {}

    def follow(self, before: StarState, after: StarState) -> None:
        """Take over what an update by one frame did: the frame that left the window joined, and two may have merged."""
        if after.clusters is None:
            return
        slot = 0 if before.clusters is None else before.clusters.free
        self.slots[slot] = [float(time) for time in (before.spatial_times[:1] if len(before.window) else [])]
        gone = set(self.slots) - set(after.clusters.order)
        for lost in gone:
            into = next(s for s in self.slots if s != lost and len(self.slots[s]) < round(after.clusters.weights[s]))
            self.slots[into] += self.slots.pop(lost)

    def in_order(self, state: StarState) -> list[list[float]]:
        assert state.clusters is not None
        return [sorted(self.slots[slot]) for slot in state.clusters.order]


def watch(video: str, model_path: str | None, fps: float) -> tuple[StarState, Members, dict[float, np.ndarray]]:
    """The memory after the whole video, its centroids' members, and every frame by its time.

    Raises ValueError for a memory that is not star, and where it has no centroid yet.
    """
    model, processor = load(model_path)
    if (mode := model.config.memory.mode) != "star":
        raise ValueError(f"the checkpoint's memory is {mode!r}: give one whose memory is star")
    state, members, frames = model.memory.init_state(), Members(), {}
    for frame, time_s in read_frames(video, fps):
        with torch.inference_mode():
            features = model.encode_frames(processor.frames_to_pixels(frame[None]))
            following = model.memory.update(state, features, times=[time_s])
        members.follow(state, following)
        state, frames[time_s] = following, frame
    if state.clusters is None:
        raise ValueError(
            f"the memory holds no centroid after {video} (frames seen: {state.n_frames}): give a longer video, "
            "a higher --video_fps or a memory with a temporal_length above 0"
        )
    return state, members, frames


def draw(state: StarState, members: Members, frames: dict[float, np.ndarray], title: str, output: Path) -> None:
    """One picture: the video as a strip, centroids over time with their weights, and the key frames."""
    groups = members.in_order(state)
    last = max(frames)
    figure = plt.figure(figsize=(12, 8.2))
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 4.6, 1.5), width_ratios=(6, 1), hspace=0.42, wspace=0.04)

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
    spans.plot([], [], color="crimson", linestyle=":", label="key frames")
    spans.set(xlim=(0, last), ylabel="centroid, in time order", xlabel="time of the frames it stands for (s)")
    spans.invert_yaxis()
    spans.legend(loc="lower left", fontsize=8)

    weights = figure.add_subplot(grid[1, 1], sharey=spans)
    weights.barh(range(len(groups)), state.temporal_weights, color=colours)
    weights.tick_params(labelleft=False)
    weights.set(xlabel="weight (frames)")

    places = grid[2, :].subgridspec(1, len(state.retrieved) + len(state.window))
    names = [f"key frame, {f.time:.0f} s" for f in state.retrieved] + [f"newest, {f.time:.0f} s" for f in state.window]
    for place, (name, frame) in enumerate(zip(names, (*state.retrieved, *state.window), strict=True)):
        picture = figure.add_subplot(places[0, place])
        picture.imshow(frames[frame.time])
        picture.set(title=name, xticks=[], yticks=[])
        picture.title.set_fontsize(9)
    figure.savefig(output, dpi=80, bbox_inches="tight")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video_file", default=str(CLIP), help="default: the shipped clip")
    parser.add_argument("--model_path", help="default: the embedded tiny model")
    parser.add_argument("--video_fps", type=float, default=1.0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)

    def work() -> None:
        state, members, frames = watch(arguments.video_file, arguments.model_path, arguments.video_fps)
        title = f"{Path(arguments.video_file).name}: {state.n_frames} frames, {len(members.slots)} centroids"
        draw(state, members, frames, title, arguments.output)

    return run_command(work, interrupted="nothing was drawn")


if __name__ == "__main__":
    sys.exit(main())
