"""What was seen of a stream, told in short statements: a dense text to learn looking things up from.

A statement names what to look for and goes on with what is found there, as a question and its answer do, in a third of
the words. No two statements of one text are about the same thing, so that none gives away another; only what came into
or left a room may be said of a room that is listed.
"""

import random
from collections.abc import Iterator, Sequence

from flash_vstream.synthetic.questions import NUMBERS, absent_name, other_word
from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, ROOMS, SHAPES, Actor, Stream, Visit

MOST_STATEMENTS = 36
CHECKED = 0.2  # of the statements are checks, "...: yes" or "...: no", unless more are asked for
IN_VIEW = 0.4  # of what could be said of the scene in view is said: it is soon learnt
LONGEST_RUN = 3  # rooms after, or before, the one that a statement begins with
MOST_COMPARED = 5  # rooms that one statement puts in order
UNCHANGED = 0.4  # of the visits in which nothing came or left are said to be such
FIRST = 0.1  # of the texts say which room was the first
NAMED = 0.5  # of the texts about slides begin a list with the bare name of its room
LISTED = 0.4  # of the visits are told whole: nothing but the room's name says which objects are meant


def notes(stream: Stream, until: float, rng: random.Random, checked: float = CHECKED) -> str:
    """Statements, in any order, about what was seen in [0, until]: objects, the order of rooms, what is in view.

    checked: the share of statements that say whether something is so.
    """
    seen = [visit for visit in stream.visits if visit.start <= until]
    names = [actor.name for visit in seen for actor in visit.actors if actor.start <= until]
    told = _order(seen, rng, checked)
    for visit in seen[:-1]:
        if rng.random() < LISTED:
            told.append(_listed(visit))
            told += [_changed(actor, visit) for actor in visit.actors if actor.enters or actor.leaves]
        else:
            told += [_about(actor, visit, names, rng, checked) for actor in visit.actors]
        if not any(actor.enters or actor.leaves for actor in visit.actors) and rng.random() < UNCHANGED:
            told.append(f"{rng.choice(('came into', 'left'))} the {visit.room}: no")
    told += _in_view(seen[-1], until, rng, checked)
    if not told or rng.random() < IN_VIEW:
        told.append(_now(seen[-1], until, rng, checked))
    return _text(rng.sample(told, min(len(told), MOST_STATEMENTS)), rng)


def frame_notes(visit: Visit, time_s: float, rng: random.Random, checked: float = CHECKED) -> str:
    """The same about a single frame."""
    told = [
        _found(actor, visit, rng.choice(("now", f"in the {visit.room}")), rng, checked)
        for actor in visit.present(time_s)
    ]
    return _text([*told, _now(visit, time_s, rng, checked)], rng)


def _listed(visit: Visit) -> str:
    """All objects of a visit, by their places."""
    return f"in the {visit.room}: {_names(visit)}"


def _named(visit: Visit) -> str:
    return f"{visit.room} {_names(visit)}"


def _names(visit: Visit) -> str:
    return ", ".join(actor.name for actor in sorted(visit.actors, key=lambda actor: actor.spot))


def _changed(actor: Actor, visit: Visit) -> str:
    return f"{'came into' if actor.enters else 'left'} the {visit.room}: {actor.name}"


def slide_notes(shown: Sequence[Visit], rng: random.Random) -> str:
    """The objects of some rooms of a slide show, and nothing else: only the room's name finds them.

    In half of the texts it stands right before them ("attic black ring"), where one look finds them. With words
    between, another look has to bring the name there; neither is of use without the other, and both may never come
    (docs/log.md).
    """
    tell = _named if rng.random() < NAMED else _listed
    return _text(_half([tell(visit) for visit in shown], rng), rng)


def _half(told: list[str], rng: random.Random) -> list[str]:
    """Half of the statements, one at least: of all but those told before, what is left is known without looking."""
    return rng.sample(told, len(told))[: max(1, len(told) // 2)]


def _text(told: list[str], rng: random.Random) -> str:
    told = list(dict.fromkeys(told))  # two objects may be doubted by the same words
    return ". ".join(rng.sample(told, len(told)))


def _now(visit: Visit, time_s: float, rng: random.Random, checked: float) -> str:
    if rng.random() < checked:
        is_true = rng.random() < 0.5
        room = visit.room if is_true else other_word(visit.room, ROOMS, rng)
        return f"the {room} now: {_verdict(is_true)}"
    return f"now: {visit.room}, {NUMBERS[len(visit.present(time_s))]}"


def _order(seen: Sequence[Visit], rng: random.Random, checked: float) -> list[str]:
    """Some rooms put in order, or some that came one after another."""
    return list(_compared(seen, rng, checked)) if rng.random() < 0.4 else _half(list(_in_turn(seen, rng)), rng)


def _in_turn(seen: Sequence[Visit], rng: random.Random) -> Iterator[str]:
    """The rooms one after another, in short runs, forwards and backwards."""
    rooms = [visit.room for visit in seen]
    begin = 0
    while begin < len(rooms) - 1:
        end = min(begin + rng.randint(1, LONGEST_RUN), len(rooms) - 1)
        run = rooms[begin : end + 1]
        if rng.random() < 0.5:
            yield f"after the {run[0]}: {', '.join(run[1:])}"
        else:
            yield f"before the {run[-1]}: {', '.join(run[-2::-1])}"
        begin = end
    if rng.random() < FIRST:
        yield f"first: {rooms[0]}"


def _compared(seen: Sequence[Visit], rng: random.Random, checked: float) -> Iterator[str]:
    """Rooms put in the order in which they were shown, each in one statement at most."""
    places = rng.sample(range(len(seen)), len(seen))
    while len(places) > 1:
        check = rng.random() < 2 * checked
        count = 2 if check else min(rng.randint(2, MOST_COMPARED), len(places))
        group, places = places[:count], places[count:]
        rooms = [seen[place].room for place in group]
        if check:
            yield f"the {rooms[0]} before the {rooms[1]}: {_verdict(group[0] < group[1])}"
        else:
            yield f"first the {' the '.join(rooms)}: {', '.join(seen[place].room for place in sorted(group))}"


def _about(actor: Actor, visit: Visit, names: Sequence[str], rng: random.Random, checked: float) -> str:
    """One object of a visit that is over."""
    if (actor.enters or actor.leaves) and rng.random() < 0.6:
        return _changed(actor, visit)
    if names.count(actor.name) == 1 and rng.random() < 0.15:
        return f"the {actor.name}: {_told(rng, visit.room, actor.activity)}"
    return _found(actor, visit, f"in the {visit.room}", rng, checked)


def _found(actor: Actor, visit: Visit, where: str, rng: random.Random, checked: float) -> str:
    """An object by its shape or its colour among those of a visit; or a check of what it is or does."""
    if rng.random() < checked:
        return _check(actor, visit, where, rng)
    if rng.random() < 0.5:
        return f"the {actor.shape} {where}: {_told(rng, actor.colour, actor.activity)}"
    return f"the {actor.colour} one {where}: {_told(rng, actor.shape, actor.activity)}"


def _told(rng: random.Random, first: str, second: str) -> str:
    """Both facts in either order: what is told first is found with the key alone."""
    return ", ".join(rng.sample((first, second), 2))


def _check(actor: Actor, visit: Visit, where: str, rng: random.Random) -> str:
    """A true or a false statement about one object, as often the one as the other."""
    is_true = rng.random() < 0.5
    about = rng.choice(("activity", "colour", "shape", "name", "name"))
    if about == "activity":
        told = actor.activity if is_true else other_word(actor.activity, ACTIVITIES, rng)
        return f"{actor.shape} {told} {where}: {_verdict(is_true)}"
    if about == "colour":
        told = actor.colour if is_true else _absent([other.colour for other in visit.actors], COLOURS, rng)
        return f"a {told} one {where}: {_verdict(is_true)}"
    if about == "shape":
        told = actor.shape if is_true else _absent([other.shape for other in visit.actors], SHAPES, rng)
    else:
        told = actor.name if is_true else absent_name(actor, visit.actors, rng)
    return f"a {told} {where}: {_verdict(is_true)}"


def _absent(there: Sequence[str], words: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([word for word in words if word not in there])


def _verdict(is_true: bool) -> str:
    return "yes" if is_true else "no"


def _in_view(visit: Visit, until: float, rng: random.Random, checked: float) -> Iterator[str]:
    """Some of what is in view, and what is gone from it."""
    present = visit.present(until)
    for actor in visit.actors:
        if actor.leaves and actor.end <= until:
            yield _changed(actor, visit)
        elif actor in present and rng.random() < IN_VIEW:
            yield _found(actor, visit, "now", rng, checked)
