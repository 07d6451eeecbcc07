"""What was seen of a stream, told in short statements: a dense text to learn looking things up from.

A statement names what to look for and goes on with what is found there, as a question and its answer do, in a third of
the words. No two statements of one text are about the same thing, so that none gives away another.
"""

import random
from collections.abc import Iterator
from itertools import pairwise

from flash_vstream.synthetic.questions import NUMBERS, absent_name, other_word
from flash_vstream.synthetic.world import ACTIVITIES, SPOTS, Actor, Stream, Visit

MOST_STATEMENTS = 20
CHECKED = 0.2  # of the statements are checks, "...: yes" or "...: no", unless more are asked for


def notes(stream: Stream, until: float, rng: random.Random, checked: float = CHECKED) -> str:
    """Statements, in any order, about what was seen in [0, until]: objects, the order of rooms, what is in view.

    checked: the share of statements that say whether something is so.
    """
    seen = [visit for visit in stream.visits if visit.start <= until]
    names = [actor.name for visit in seen for actor in visit.actors if actor.start <= until]
    told = [f"first: {seen[0].room}"]
    told += [_order(before, after, rng, checked) for before, after in pairwise(seen)]
    for visit in seen[:-1]:
        told += [_about(actor, visit, names, rng, checked) for actor in visit.actors]
    in_view = list(_in_view(seen[-1], until, rng, checked))
    return _text(rng.sample(told, min(len(told), MOST_STATEMENTS - len(in_view))) + in_view, rng)


def frame_notes(visit: Visit, time_s: float, rng: random.Random) -> str:
    """The same about a single frame."""
    names = [actor.name for actor in visit.present(time_s)]
    told = [_about(actor, visit, names, rng, alone=True) for actor in visit.present(time_s)]
    return _text([*told, _now(visit, time_s)], rng)


def _text(told: list[str], rng: random.Random) -> str:
    return ". ".join(rng.sample(told, len(told)))


def _now(visit: Visit, time_s: float) -> str:
    return f"now: {visit.room}, {NUMBERS[len(visit.present(time_s))]}"


def _order(before: Visit, after: Visit, rng: random.Random, checked: float) -> str:
    if rng.random() < checked:
        first, second = rng.sample((before.room, after.room), 2)
        return f"the {first} before the {second}: {'yes' if first == before.room else 'no'}"
    return rng.choice((f"after the {before.room}: {after.room}", f"before the {after.room}: {before.room}"))


def _about(
    actor: Actor, visit: Visit, names: list[str], rng: random.Random, checked: float = CHECKED, alone: bool = False
) -> str:
    """One object of a visit that is over (`alone`: of a frame, in which nothing has come or gone)."""
    if not alone and (actor.enters or actor.leaves) and rng.random() < 0.5:
        return f"came into the {visit.room}: {actor.name}" if actor.enters else f"left the {visit.room}: {actor.name}"
    if names.count(actor.name) == 1 and rng.random() < 0.2:
        return f"the {actor.name}: {_told(rng, visit.room, actor.activity)}"
    return _found(actor, visit, f"in the {visit.room}", rng, checked)


def _found(actor: Actor, visit: Visit, where: str, rng: random.Random, checked: float) -> str:
    """An object by its shape, its colour or its place among those of a visit; or a check of what it is or does."""
    if rng.random() < checked:
        return _check(actor, visit, where, rng)
    return rng.choice(
        (
            f"the {actor.shape} {where}: {_told(rng, actor.colour, actor.activity)}",
            f"the {actor.colour} one {where}: {_told(rng, actor.shape, actor.activity)}",
            f"{SPOTS[actor.spot]} {where}: {_told(rng, actor.name, actor.activity)}",
        )
    )


def _told(rng: random.Random, first: str, second: str) -> str:
    """Both facts in either order: what is told first is found with the key alone."""
    return ", ".join(rng.sample((first, second), 2))


def _check(actor: Actor, visit: Visit, where: str, rng: random.Random) -> str:
    """A true or a false statement about one object, as often the one as the other."""
    is_true = rng.random() < 0.5
    if rng.random() < 0.5:
        activity = actor.activity if is_true else other_word(actor.activity, ACTIVITIES, rng)
        return f"{actor.shape} {activity} {where}: {'yes' if is_true else 'no'}"
    name = actor.name if is_true else absent_name(actor, visit.actors, rng)
    return f"a {name} {where}: {'yes' if is_true else 'no'}"


def _in_view(visit: Visit, until: float, rng: random.Random, checked: float) -> Iterator[str]:
    """The room in view, and the objects in it or gone from it."""
    yield _now(visit, until)
    present = visit.present(until)
    for actor in visit.actors:
        if actor in present:
            yield _found(actor, visit, "now", rng, checked)
        elif actor.leaves and actor.end <= until:
            yield f"left the {visit.room}: {actor.name}"
