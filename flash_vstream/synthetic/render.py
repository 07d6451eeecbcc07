"""Draws the synthetic world: the frame at any time of a stream, and whole streams as mp4 files (PyAV, H.264)."""

import functools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from flash_vstream.files import atomic
from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, ROOMS, SHAPES, SLIDE_S, Actor, Stream, Visit

FRAME_SIZE = 96  # pixels a side: what the tiny encoder takes
SPRITE = 0.48  # side of an object with its sign, as a share of the frame's side
SUPERSAMPLE = 4  # drawn this much larger and scaled down, for smooth edges

_PAINT = {
    "red": (214, 30, 36), "green": (20, 140, 50), "blue": (30, 70, 220), "yellow": (250, 222, 20),
    "purple": (132, 40, 160), "orange": (255, 130, 0), "white": (250, 250, 250), "black": (18, 18, 18),
}  # fmt: skip
# wall, floor, pattern on the wall: muted, so that the objects stand out
_DECOR = {
    "kitchen": ((236, 214, 170), (150, 110, 80), "checks"), "bedroom": ((190, 170, 215), (120, 100, 140), "dots"),
    "garage": ((150, 155, 160), (90, 92, 96), "plain"), "garden": ((160, 205, 235), (110, 165, 90), "plain"),
    "office": ((200, 220, 205), (95, 120, 130), "stripes"), "attic": ((175, 130, 95), (110, 75, 50), "stripes"),
    "cellar": ((95, 85, 85), (60, 55, 60), "checks"), "bathroom": ((190, 230, 235), (130, 190, 200), "checks"),
    "hallway": ((235, 190, 180), (165, 95, 90), "plain"), "library": ((140, 95, 75), (85, 110, 85), "dots"),
    "workshop": ((205, 195, 130), (125, 125, 75), "stripes"), "balcony": ((225, 225, 245), (205, 165, 130), "dots"),
}  # fmt: skip
assert set(_PAINT) == set(COLOURS) and set(_DECOR) == set(ROOMS)


@functools.cache
def _room(room: str, size: int) -> np.ndarray:
    """The empty room, uint8 [size, size, 3]."""
    wall, floor, pattern = _DECOR[room]
    big = size * SUPERSAMPLE
    picture = Image.new("RGB", (big, big), wall)
    draw = ImageDraw.Draw(picture)
    step = big // 8
    ink = tuple(int(value * 0.82) for value in wall)
    for i in range(8):
        for j in range(8):
            corner = (i * step, j * step)
            if pattern == "stripes" and i % 2 and not j:
                draw.rectangle((*corner, corner[0] + step // 2, big), fill=ink)
            elif pattern == "checks" and (i + j) % 2:
                draw.rectangle((*corner, corner[0] + step, corner[1] + step), fill=ink)
            elif pattern == "dots":
                inner, outer = step // 3, step
                draw.ellipse((*(c + inner for c in corner), *(c + outer for c in corner)), fill=ink)
    draw.rectangle((0, int(big * 0.8), big, big), fill=floor)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def _outline(shape: str, centre: float, radius: float) -> list[tuple[float, float]]:
    """Corner points of a shape around (centre, centre)."""
    r = radius
    if shape == "square":
        unit = [(-r * 0.88, -r * 0.88), (r * 0.88, -r * 0.88), (r * 0.88, r * 0.88), (-r * 0.88, r * 0.88)]
    elif shape == "bar":
        unit = [(-r, -r * 0.36), (r, -r * 0.36), (r, r * 0.36), (-r, r * 0.36)]
    elif shape == "pillar":
        unit = [(-r * 0.36, -r), (r * 0.36, -r), (r * 0.36, r), (-r * 0.36, r)]
    elif shape == "triangle":
        unit = [(0, -r), (r * 1.1, r), (-r * 1.1, r)]
    elif shape == "cross":
        quarter = [(-r * 0.36, -r), (r * 0.36, -r), (r * 0.36, -r * 0.36)]
        unit = [point for turn in range(4) for point in (_turned(corner, turn) for corner in quarter)]
    else:
        angles = np.linspace(0, 2 * np.pi, 40)
        unit = list(zip(r * np.cos(angles), r * np.sin(angles), strict=True))
    return [(float(x) + centre, float(y) + centre) for x, y in unit]


def _turned(point: tuple[float, float], quarters: int) -> tuple[float, float]:
    """The point after that many quarter turns around the origin."""
    for _ in range(quarters):
        point = (-point[1], point[0])
    return point


@functools.cache
def _sprite(colour: str, shape: str, activity: str, size: int) -> np.ndarray:
    """An object with the sign of its activity, float32 RGBA [s, s, 4] in 0..1, s = SPRITE of the frame."""
    side = int(size * SPRITE)
    big = side * SUPERSAMPLE
    picture = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    centre, radius = big / 2, big * 0.35
    line = max(big // 28, 1)
    if activity == "glowing":
        reach = big * 0.49
        draw.ellipse([centre - reach, centre - reach, centre + reach, centre + reach],
                     outline=(255, 255, 120, 255), width=line * 3)  # fmt: skip
    if activity == "jumping":
        draw.ellipse([big * 0.18, big * 0.87, big * 0.82, big * 0.99], fill=(20, 20, 20, 230))
    corners = _outline(shape, centre, radius)
    draw.polygon(corners, fill=(*_PAINT[colour], 255))
    draw.line([*corners, corners[0]], fill=(70, 70, 70, 255), width=line)
    if shape == "ring":
        hole = [centre - radius * 0.5, centre - radius * 0.5, centre + radius * 0.5, centre + radius * 0.5]
        draw.ellipse(hole, fill=(0, 0, 0, 0), outline=(70, 70, 70, 255), width=line)
    if activity == "sleeping":  # a white Z on black, above to the right
        left, top, wide = big * 0.78, big * 0.05, big * 0.17
        draw.rectangle((big * 0.73, 0, big, big * 0.27), fill=(0, 0, 0, 255))
        zigzag = [(left, top), (left + wide, top), (left, top + wide), (left + wide, top + wide)]
        draw.line(zigzag, fill=(255, 255, 255, 255), width=line * 2)
    if activity == "singing":  # a dark note on white, above to the left
        ink = (10, 10, 60, 255)
        draw.rectangle((0, 0, big * 0.27, big * 0.27), fill=(255, 255, 255, 255))
        draw.ellipse([big * 0.03, big * 0.15, big * 0.14, big * 0.25], fill=ink)
        stem = [(big * 0.13, big * 0.2), (big * 0.13, big * 0.04), (big * 0.23, big * 0.08)]
        draw.line(stem, fill=ink, width=line * 2)
    assert activity in ACTIVITIES and shape in SHAPES
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


def _position(actor: Actor, time_s: float, size: int) -> tuple[int, int]:
    """Top-left pixel of the sprite: its spot, a slight sway, and the slide in from or out to the nearer side."""
    side = int(size * SPRITE)
    left = actor.spot % 2 == 0
    x = size * (0.25 if left else 0.75) - side / 2
    y = size * (0.26 if actor.spot < 2 else 0.74) - side / 2
    phase = sum(map(ord, actor.name)) % 7
    x += size * 0.015 * np.sin(1.3 * time_s + phase)
    y += size * 0.015 * np.cos(1.7 * time_s + phase)
    outside = 0.0
    if actor.enters:
        outside = max(outside, 1 - (time_s - actor.start) / SLIDE_S)
    if actor.leaves:
        outside = max(outside, 1 - (actor.end - time_s) / SLIDE_S)
    x += (-1 if left else 1) * outside * size * 0.5
    return round(x), round(y)


def render_visit(visit: Visit, time_s: float, size: int = FRAME_SIZE) -> np.ndarray:
    """The frame of a visit at `time_s`, uint8 [size, size, 3]."""
    frame = _room(visit.room, size).astype(np.float32)
    for actor in visit.present(time_s):
        sprite = _sprite(actor.colour, actor.shape, actor.activity, size)
        x, y = _position(actor, time_s, size)
        side = sprite.shape[0]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, size), min(y + side, size)
        if x0 >= x1 or y0 >= y1:
            continue
        part = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
        alpha = part[..., 3:]
        frame[y0:y1, x0:x1] = frame[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * 255 * alpha
    return frame.astype(np.uint8)


def render_stream(stream: Stream, fps: float, size: int = FRAME_SIZE) -> Iterator[np.ndarray]:
    """All frames of a stream at times k / fps, uint8 [size, size, 3] each."""
    for index in range(int(stream.duration * fps)):
        time_s = index / fps
        yield render_visit(stream.visit_at(time_s), time_s, size)


def write_mp4(stream: Stream, path: Path, fps: int, size: int = FRAME_SIZE) -> None:
    """Encode a stream as H.264, in one thread so that the file is always the same. The write is atomic."""
    with atomic(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        output = container.add_stream("libx264", rate=Fraction(fps))
        output.width = output.height = size
        output.pix_fmt = "yuv420p"
        output.options = {"crf": "20", "preset": "ultrafast"}
        output.codec_context.thread_count = 1
        for frame in render_stream(stream, fps, size):
            container.mux(output.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(output.encode())
