"""The synthetic world: the events of a stream, second by second, as plain values drawn from a seed.

A stream is a walk through rooms. Each room has a few coloured shapes with an activity each; in some visits one of them
enters or leaves, and an object that has left may enter a later room. `render.py` makes frames of a stream,
`questions.py` asks about it.
"""

import math
import random
from dataclasses import dataclass, replace
from itertools import pairwise

ROOMS = (
    "kitchen", "bedroom", "garage", "garden", "office", "attic",
    "cellar", "bathroom", "hallway", "library", "workshop", "balcony",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SHAPES = ("ring", "square", "triangle", "cross", "bar", "pillar")  # distinct even with coarse patches
ACTIVITIES = ("sleeping", "singing", "glowing", "jumping")
SPOTS = ("top left", "top right", "bottom left", "bottom right")

MINUTE = 60.0
SHORTEST_STREAM_S, LONGEST_STREAM_S = MINUTE, 20 * MINUTE
SHORTEST_VISIT_S, LONGEST_VISIT_S = 14.0, 110.0
SLIDE_S = 2.0  # duration of entering or leaving
ALONE = 0.7  # share of a slide show's frames with one object; the others have two


@dataclass(frozen=True)
class Actor:
    """One object during one visit: appearance, place, and times (stream seconds)."""

    colour: str
    shape: str
    activity: str
    spot: int
    start: float
    end: float
    enters: bool = False
    leaves: bool = False

    @property
    def name(self) -> str:
        """Colour and shape, such as "red ring"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Visit:
    """The camera's stay in one room from `start` to `end` (stream seconds)."""

    room: str
    start: float
    end: float
    actors: tuple[Actor, ...]

    def present(self, time_s: float) -> list[Actor]:
        """The objects in the room at `time_s`, in the order of their spots."""
        return sorted((a for a in self.actors if a.start <= time_s < a.end), key=lambda actor: actor.spot)


@dataclass(frozen=True)
class Stream:
    """A whole stream: consecutive visits from time 0 to `duration` (seconds)."""

    seed: int
    duration: float
    visits: tuple[Visit, ...]

    def visit_at(self, time_s: float) -> Visit:
        """The visit at a time. Raises ValueError for a time outside the stream."""
        if not 0 <= time_s <= self.duration:
            raise ValueError(f"time {time_s} s is outside this stream of {self.duration} s")
        return next((visit for visit in self.visits if time_s < visit.end), self.visits[-1])


def make_stream(seed: int, shortest_s: float = SHORTEST_STREAM_S, longest_s: float = LONGEST_STREAM_S) -> Stream:
    """Draw a stream; the same seed and bounds always give the same one. Lengths are log-uniform between the bounds."""
    if not MINUTE / 2 <= shortest_s <= longest_s <= LONGEST_STREAM_S:
        raise ValueError(f"stream lengths {shortest_s} to {longest_s} s: give 30 s to {LONGEST_STREAM_S:.0f} s")
    rng = random.Random(f"stream-{seed}-{shortest_s}-{longest_s}")
    duration = float(round(math.exp(rng.uniform(math.log(shortest_s), math.log(longest_s)))))
    most = min(len(ROOMS), int(duration / SHORTEST_VISIT_S))
    fewest = min(most, max(2, math.ceil(duration / LONGEST_VISIT_S)))
    bounds = _visit_bounds(rng, duration, rng.randint(fewest, most))
    rooms = rng.sample(ROOMS, len(bounds))
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    rng.shuffle(names)
    gone: list[tuple[str, str]] = []  # objects that left a room and may enter a later one
    visits = []
    for room, (start, end) in zip(rooms, bounds, strict=True):
        actors = _draw_actors(rng, names, gone, start, end)
        visits.append(Visit(room, start, end, actors))
    return Stream(seed, duration, tuple(visits))


def _visit_bounds(rng: random.Random, duration: float, count: int) -> list[tuple[float, float]]:
    """Cut [0, duration) into `count` visits of uneven lengths, none shorter than SHORTEST_VISIT_S."""
    shares = [rng.uniform(0.5, 1.5) for _ in range(count)]
    spare = duration - count * SHORTEST_VISIT_S
    lengths = [SHORTEST_VISIT_S + spare * share / sum(shares) for share in shares]
    starts = [float(round(sum(lengths[:index]))) for index in range(count)] + [duration]
    return list(pairwise(starts))


def _draw_actors(
    rng: random.Random, names: list[tuple[str, str]], gone: list[tuple[str, str]], start: float, end: float
) -> tuple[Actor, ...]:
    """Objects of one visit. Their colours and shapes differ, so that "the ring" is unambiguous."""
    event = rng.choice(("enter", "leave", None, None))
    chosen: list[tuple[str, str]] = []
    if event == "enter" and gone and rng.random() < 0.5:
        chosen.append(gone.pop(rng.randrange(len(gone))))
    wanted = rng.randint(2, 4)
    for name in list(names):
        if len(chosen) == wanted:
            break
        if all(name[0] != colour and name[1] != shape for colour, shape in chosen):
            chosen.append(name)
            names.remove(name)
    spots = rng.sample(range(len(SPOTS)), len(chosen))
    change = float(round(start + (end - start) * rng.uniform(0.4, 0.6)))
    actors = []
    for index, (colour, shape) in enumerate(chosen):
        enters, leaves = index == 0 and event == "enter", index == 0 and event == "leave"
        seen = (change if enters else start, change if leaves else end)
        actors.append(Actor(colour, shape, rng.choice(ACTIVITIES), spots[index], *seen, enters, leaves))
    if event == "leave":
        gone.append(chosen[0])
    return tuple(actors)


def random_scene(rng: random.Random) -> Visit:
    """One room with one to four objects that stay, for training the vision encoder on single frames."""
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    rng.shuffle(names)
    chosen: list[tuple[str, str]] = []
    wanted = rng.randint(1, len(SPOTS))
    for name in names:
        if len(chosen) < wanted and all(name[0] != colour and name[1] != shape for colour, shape in chosen):
            chosen.append(name)
    spots = rng.sample(range(len(SPOTS)), len(chosen))
    actors = tuple(
        Actor(colour, shape, rng.choice(ACTIVITIES), spot, 0.0, MINUTE)
        for (colour, shape), spot in zip(chosen, spots, strict=True)
    )
    return Visit(rng.choice(ROOMS), 0.0, MINUTE, actors)


def make_slides(seed: int) -> Stream:
    """A slide show: every room for one second, with one or two objects, so that the room is what identifies them."""
    rng = random.Random(f"slides-{seed}")
    visits = []
    for second, room in enumerate(rng.sample(ROOMS, len(ROOMS))):
        start, end = float(second), float(second + 1)
        actors = random_scene(rng).actors[: 1 if rng.random() < ALONE else 2]
        visits.append(Visit(room, start, end, tuple(replace(actor, start=start, end=end) for actor in actors)))
    return Stream(seed, float(len(ROOMS)), tuple(visits))


def caption(visit: Visit, time_s: float) -> str:
    """One frame in words, such as "a kitchen: top left a red ring sleeping, bottom right a blue bar singing"."""
    seen = ", ".join(f"{SPOTS[a.spot]} a {a.name} {a.activity}" for a in visit.present(time_s))
    return f"a {visit.room}: {seen}" if seen else f"a {visit.room}: nothing"
