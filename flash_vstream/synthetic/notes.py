"""Notes: what was seen of a stream, as short statements; a dense text for learning to look things up.

A statement names what to look for and continues with what is found there, as a question and its answer do, in a third
of the words. No two statements of a text are about the same thing, so that none reveals another; the exception is a
listed room, of which a text may also say what entered or left.
"""

import random
from collections.abc import Iterator, Sequence

from flash_vstream.synthetic.questions import NUMBERS, absent_name, other_word
from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, ROOMS, SHAPES, Actor, Stream, Visit

MOST_STATEMENTS = 36
CHECKED = 0.2  # default share of statements that are checks, "...: yes" or "...: no"
IN_VIEW = 0.4  # share of the possible statements about the scene in view, which are learnt quickly
LONGEST_RUN = 3  # rooms after, or before, the first room of a statement
MOST_COMPARED = 5  # rooms that one statement puts in order
UNCHANGED = 0.4  # share of the visits without change of which a text says so
FIRST = 0.1  # share of the texts that name the first room
NAMED = 0.5  # share of the texts about slides that put the room's name directly before its objects
LISTED = 0.4  # share of the visits whose objects are listed: only the room's name says which are meant


def notes(stream: Stream, until: float, rng: random.Random, checked: float = CHECKED) -> str:
    """Statements, in any order, about what was seen in [0, until]: objects, the order of rooms, the scene in view.

    `checked` is the share of statements that say whether something is so.
    """
    seen = [visit for visit in stream.visits if visit.start <= until]
    names = [actor.name for visit in seen for actor in visit.actors if actor.start <= until]
    compares = rng.random() < 0.4  # some rooms put in order; else some runs of consecutive rooms
    statements = list(_compared(seen, rng, checked)) if compares else _half(list(_in_turn(seen, rng)), rng)
    for visit in seen[:-1]:
        if rng.random() < LISTED:
            statements.append(f"in the {visit.room}: {_names(visit)}")
            statements += [_changed(actor, visit) for actor in visit.actors if actor.enters or actor.leaves]
        else:
            statements += [_about(actor, visit, names, rng, checked) for actor in visit.actors]
        if not any(actor.enters or actor.leaves for actor in visit.actors) and rng.random() < UNCHANGED:
            statements.append(f"{rng.choice(('came into', 'left'))} the {visit.room}: no")
    statements += _in_view(seen[-1], until, rng, checked)
    if not statements or rng.random() < IN_VIEW:
        statements.append(_now(seen[-1], until, rng, checked))
    return _text(rng.sample(statements, min(len(statements), MOST_STATEMENTS)), rng)


def frame_notes(visit: Visit, time_s: float, rng: random.Random, checked: float = CHECKED) -> str:
    """Statements about a single frame; arguments as for `notes`."""
    statements = [
        _found(actor, visit, rng.choice(("now", f"in the {visit.room}")), rng, checked)
        for actor in visit.present(time_s)
    ]
    return _text([*statements, _now(visit, time_s, rng, checked)], rng)


def _names(visit: Visit) -> str:
    """All objects of a visit, by their places."""
    return ", ".join(actor.name for actor in sorted(visit.actors, key=lambda actor: actor.spot))


def _changed(actor: Actor, visit: Visit) -> str:
    return f"{'came into' if actor.enters else 'left'} the {visit.room}: {actor.name}"


def slide_notes(shown: Sequence[Visit], rng: random.Random) -> str:
    """The objects of some rooms of a slide show, and nothing else: only the room's name finds them.

    In half of the texts the name directly precedes them ("attic black ring"), where one attention step finds them. With
    words in between, a second step must carry the name there. Each step is useless without the other, and a model may
    learn neither (docs/log.md).
    """
    form = "{} {}" if rng.random() < NAMED else "in the {}: {}"
    return _text(_half([form.format(visit.room, _names(visit)) for visit in shown], rng), rng)


def _half(statements: list[str], rng: random.Random) -> list[str]:
    """Half of the statements, at least one: if all were given, the last would be known without looking."""
    return rng.sample(statements, len(statements))[: max(1, len(statements) // 2)]


def _text(statements: list[str], rng: random.Random) -> str:
    statements = list(dict.fromkeys(statements))  # two checks can have the same words
    return ". ".join(rng.sample(statements, len(statements)))


def _now(visit: Visit, time_s: float, rng: random.Random, checked: float) -> str:
    if rng.random() < checked:
        is_true = rng.random() < 0.5
        room = visit.room if is_true else other_word(visit.room, ROOMS, rng)
        return f"the {room} now: {_verdict(is_true)}"
    return f"now: {visit.room}, {NUMBERS[len(visit.present(time_s))]}"


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
    """Rooms in the order in which they were shown, each in at most one statement."""
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
        return f"the {actor.name}: {_facts(rng, visit.room, actor.activity)}"
    return _found(actor, visit, f"in the {visit.room}", rng, checked)


def _found(actor: Actor, visit: Visit, where: str, rng: random.Random, checked: float) -> str:
    """An object by its shape or its colour among those of a visit; or a check of what it is or does."""
    if rng.random() < checked:
        return _check(actor, visit, where, rng)
    if rng.random() < 0.5:
        return f"the {actor.shape} {where}: {_facts(rng, actor.colour, actor.activity)}"
    return f"the {actor.colour} one {where}: {_facts(rng, actor.shape, actor.activity)}"


def _facts(rng: random.Random, first: str, second: str) -> str:
    """Both facts in either order: the first of them is found with the key alone."""
    return ", ".join(rng.sample((first, second), 2))


def _check(actor: Actor, visit: Visit, where: str, rng: random.Random) -> str:
    """A true or a false statement about one object, equally often."""
    is_true = rng.random() < 0.5
    about = rng.choice(("activity", "colour", "shape", "name", "name"))
    if about == "activity":
        fact = actor.activity if is_true else other_word(actor.activity, ACTIVITIES, rng)
        return f"{actor.shape} {fact} {where}: {_verdict(is_true)}"
    if about == "colour":
        fact = actor.colour if is_true else _absent([other.colour for other in visit.actors], COLOURS, rng)
        return f"a {fact} one {where}: {_verdict(is_true)}"
    if about == "shape":
        fact = actor.shape if is_true else _absent([other.shape for other in visit.actors], SHAPES, rng)
    else:
        fact = actor.name if is_true else absent_name(actor, visit.actors, rng)
    return f"a {fact} {where}: {_verdict(is_true)}"


def _absent(there: Sequence[str], words: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([word for word in words if word not in there])


def _verdict(is_true: bool) -> str:
    return "yes" if is_true else "no"


def _in_view(visit: Visit, until: float, rng: random.Random, checked: float) -> Iterator[str]:
    """Some of what is in view, and what has left it."""
    present = visit.present(until)
    for actor in visit.actors:
        if actor.leaves and actor.end <= until:
            yield _changed(actor, visit)
        elif actor in present and rng.random() < IN_VIEW:
            yield _found(actor, visit, "now", rng, checked)
