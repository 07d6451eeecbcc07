"""What was seen of a stream, told in short statements: a dense text to learn looking things up from.

A statement names what to look for and goes on with what is found there, as a question and its answer do, in a third of
the words. No two statements of one text are about the same thing, so that none gives away another.
"""

import random
from collections.abc import Iterator
from itertools import pairwise

from flash_vstream.synthetic.questions import NUMBERS
from flash_vstream.synthetic.world import SPOTS, Actor, Stream, Visit

MOST_STATEMENTS = 32


def notes(stream: Stream, until: float, rng: random.Random) -> str:
    """Statements, in any order, about what was seen in [0, until]: objects, the order of rooms, what is in view."""
    seen = [visit for visit in stream.visits if visit.start <= until]
    names = [actor.name for visit in seen for actor in visit.actors if actor.start <= until]
    told = [f"first: {seen[0].room}"]
    for before, after in pairwise(seen):
        told.append(rng.choice((f"after the {before.room}: {after.room}", f"before the {after.room}: {before.room}")))
    for visit in seen[:-1]:
        told += [_about(actor, visit, names, rng) for actor in visit.actors]
    told += _in_view(seen[-1], until, rng)
    return _text(told, rng)


def frame_notes(visit: Visit, time_s: float, rng: random.Random) -> str:
    """The same about a single frame."""
    names = [actor.name for actor in visit.present(time_s)]
    told = [_about(actor, visit, names, rng, alone=True) for actor in visit.present(time_s)]
    return _text([*told, _now(visit, time_s)], rng)


def _text(told: list[str], rng: random.Random) -> str:
    return ". ".join(rng.sample(told, min(len(told), MOST_STATEMENTS)))


def _now(visit: Visit, time_s: float) -> str:
    return f"now: {visit.room}, {NUMBERS[len(visit.present(time_s))]}"


def _about(actor: Actor, visit: Visit, names: list[str], rng: random.Random, alone: bool = False) -> str:
    """One object of a visit that is over (`alone`: of a frame, in which nothing has come or gone)."""
    room = visit.room
    ways = [
        f"{SPOTS[actor.spot]} in the {room}: {actor.name}, {actor.activity}",
        f"the {actor.shape} in the {room}: {actor.colour}, {actor.activity}",
        f"the {actor.colour} one in the {room}: {actor.shape}, {actor.activity}",
    ]
    if names.count(actor.name) == 1:
        ways.append(f"the {actor.name}: {room}, {actor.activity}")
    if not alone and (actor.enters or actor.leaves) and rng.random() < 0.5:
        return f"came into the {room}: {actor.name}" if actor.enters else f"left the {room}: {actor.name}"
    return rng.choice(ways)


def _in_view(visit: Visit, until: float, rng: random.Random) -> Iterator[str]:
    """The room in view, and the objects in it or gone from it."""
    yield _now(visit, until)
    present = visit.present(until)
    for actor in visit.actors:
        if actor in present:
            yield rng.choice(
                (
                    f"the {actor.shape} now: {actor.colour}, {actor.activity}",
                    f"the {actor.colour} one now: {actor.shape}, {actor.activity}",
                )
            )
        elif actor.leaves and actor.end <= until:
            yield f"left the {visit.room}: {actor.name}"
