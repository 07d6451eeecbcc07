"""Questions and answers about a synthetic stream, of the five VStream-QA kinds, "now" and "back then".

Every question has the time at which it is asked and the interval of its evidence. "now" is answered by what is in view;
"back then" by what was last in view at least BACK_THEN_S before the question, so that only memory can help. Every
question has exactly one right answer.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, ROOMS, SHAPES, SLIDE_S, Actor, Stream, Visit

KINDS = ("scene summary", "action", "event occurrence", "ordered events", "sequence validation")
NUMBERS = ("zero", "one", "two", "three", "four")
BACK_THEN_S = 60.0
SETTLED_S = 4.0  # a scene must last this long before a question is asked

Used = Counter[tuple[str, str]]  # how often each (template, answer) was picked


@dataclass(frozen=True)
class Question:
    """One question with its only right answer; times in stream seconds."""

    kind: str
    template: str  # the rule that made it; answers are balanced by template
    question: str
    answer: str
    asked_at: float
    evidence: tuple[float, float]
    # What it asks about: of two questions with a common fact, one may reveal the other's answer.
    facts: frozenset[str]

    @property
    def split(self) -> str:
        """The split: "back then" if the evidence went out of view long enough ago, otherwise "now"."""
        return "back then" if self.asked_at - self.evidence[1] >= BACK_THEN_S else "now"

    @property
    def in_view(self) -> bool:
        """Whether the question is about the moment at which it is asked."""
        return self.evidence[1] == self.asked_at


def ask_times(stream: Stream, count: int, rng: random.Random, earliest: float = 0.3) -> list[float]:
    """Moments (whole seconds, sorted) after the share `earliest` of a stream at which the scene in view is settled."""
    calm = _calm(stream, earliest)
    return sorted(rng.sample(calm, min(count, len(calm))))


def early_ask_times(stream: Stream, count: int, rng: random.Random) -> list[float]:
    """Settled moments, log-uniform over a stream: as many in the first half minute as in the last half."""
    calm = _calm(stream, earliest=0.0)
    wanted = [math.exp(rng.uniform(math.log(calm[0]), math.log(calm[-1]))) for _ in range(count)]
    return sorted({min(calm, key=lambda second: abs(second - target)) for target in wanted})


def _calm(stream: Stream, earliest: float) -> list[float]:
    """All settled seconds after the share `earliest` of a stream."""
    changes = [0.0]
    for visit in stream.visits:
        changes += [visit.start, *(actor.start for actor in visit.actors if actor.enters)]
        changes += [actor.end - SLIDE_S for actor in visit.actors if actor.leaves]
        changes += [actor.end for actor in visit.actors if actor.leaves]
    return [
        float(second)
        for second in range(int(stream.duration * earliest), int(stream.duration))
        if all(not 0 <= second - change < SETTLED_S for change in changes)
    ]


def all_questions(
    stream: Stream, asked_at: float, rng: random.Random, back_then_s: float = BACK_THEN_S
) -> list[Question]:
    """All questions that can be asked at a moment, about what is in view and what went out of view `back_then_s` ago.

    Yes/no questions come in pairs, one of each.
    """
    return [*_now(stream, asked_at, rng), *_back_then(stream, asked_at, rng, back_then_s)]


def choose(
    questions: list[Question], count: int, rng: random.Random, used: Used, known: set[str] | None = None
) -> list[Question]:
    """Pick at most `count` questions, templates in turn, each time with the answer that was used least.

    `used` counts (template, answer) over a whole data set and is updated; it keeps any answer of a template from
    becoming a good guess. `known`, for the turns of one conversation, holds facts and is updated: no picked question
    shares a fact with them or another, so that no turn can be answered from the words of another.
    """
    by_template: dict[str, list[Question]] = {}
    for question in rng.sample(questions, len(questions)):
        by_template.setdefault(question.template, []).append(question)
    chosen: list[Question] = []
    while by_template and len(chosen) < count:
        for template in rng.sample(list(by_template), len(by_template)):
            if len(chosen) == count:
                break
            pool = by_template[template]
            if known is not None:
                pool[:] = [question for question in pool if not question.facts & known]
            if not pool:
                del by_template[template]
                continue
            best = min(pool, key=lambda question: used[template, question.answer])
            used[template, best.answer] += 1
            chosen.append(best)
            pool.remove(best)
            if known is not None:
                known |= best.facts
    return chosen


def _now(stream: Stream, time_s: float, rng: random.Random) -> Iterator[Question]:
    visit = stream.visit_at(time_s)
    present = visit.present(time_s)
    evidence = (time_s, time_s)

    def make(kind: str, template: str, question: str, answer: str, fact: str) -> Question:
        return Question(kind, template, question, answer, time_s, evidence, frozenset([fact]))

    yield make("scene summary", "room now", "Which room is shown now?", visit.room, "room now")
    number = NUMBERS[len(present)]
    yield make("scene summary", "count now", "How many objects are in the room now?", number, "count now")
    for actor in present:
        fact = f"{actor.name} in the {visit.room}"
        yield make("action", "activity now", f"What is the {actor.shape} doing now?", actor.activity, fact)
        yield make("event occurrence", "colour now", f"What colour is the {actor.shape} now?", actor.colour, fact)
        yield make("event occurrence", "shape now", f"Which shape is {actor.colour} now?", actor.shape, fact)
    if present:
        actor = rng.choice(present)
        fact = f"{actor.name} in the {visit.room}"
        for name, answer in ((actor.name, "yes"), (absent_name(actor, present, rng), "no")):
            yield make("event occurrence", "present now", f"Is there a {name} now?", answer, fact)
        for activity, answer in ((actor.activity, "yes"), (other_word(actor.activity, ACTIVITIES, rng), "no")):
            yield make("action", "activity check now", f"Is the {actor.shape} {activity} now?", answer, fact)
    for room, answer in ((visit.room, "yes"), (other_word(visit.room, ROOMS, rng), "no")):
        yield make("sequence validation", "room check now", f"Is the {room} shown now?", answer, "room now")


def _back_then(stream: Stream, asked_at: float, rng: random.Random, back_then_s: float) -> Iterator[Question]:
    horizon = asked_at - back_then_s
    past = [visit for visit in stream.visits if visit.end <= horizon]  # entirely out of view for long enough
    if not past:
        return
    seen = [visit for visit in stream.visits if visit.start <= asked_at]

    def make(kind: str, template: str, question: str, answer: str, span: tuple[float, float], *facts: str) -> Question:
        return Question(kind, template, question, answer, asked_at, span, frozenset(facts))

    def order(*visits: Visit) -> list[str]:
        return [f"order of the {visit.room}" for visit in visits]

    first = past[0]
    span = (first.start, first.end)
    yield make("scene summary", "first room", "Which room was shown first?", first.room, span, *order(first))
    for before, after in pairwise(past):
        span = (before.start, after.end)
        follows, precedes = f"right after the {before.room}", f"right before the {after.room}"
        facts = order(before, after)
        yield make("ordered events", "room after", f"Which room came {follows}?", after.room, span, *facts)
        yield make("ordered events", "room before", f"Which room came {precedes}?", before.room, span, *facts)
    pairs = list(combinations(past, 2))
    for first, second in rng.sample(pairs, min(len(pairs), len(past))):
        span, facts = (first.start, second.end), order(first, second)
        for a, b, answer in ((first, second, "yes"), (second, first, "no")):
            text = f"Was the {a.room} shown before the {b.room}?"
            yield make("sequence validation", "order check", text, answer, span, *facts)
    trios = [sorted(rng.sample(past, 3), key=lambda visit: visit.start) for _ in range(len(past) - 2)]
    for trio in trios:
        rooms = rng.sample([visit.room for visit in trio], 3)
        text = f"Which came first, the {rooms[0]}, the {rooms[1]} or the {rooms[2]}?"
        span = (trio[0].start, trio[-1].end)
        yield make("sequence validation", "first of three", text, trio[0].room, span, *order(*trio))
    for visit in past:
        yield from _about_visit(visit, seen, make, rng)


def _about_visit(
    visit: Visit, seen: list[Visit], make: Callable[..., Question], rng: random.Random
) -> Iterator[Question]:
    """Questions about the objects of one past visit; `seen`, all visits so far, keeps the answers unambiguous."""
    room = visit.room
    for actor in visit.actors:
        span = (actor.start, actor.end)
        shape, colour, fact = actor.shape, actor.colour, f"{actor.name} in the {room}"
        yield make("action", "activity then", f"What was the {shape} doing in the {room}?", actor.activity, span, fact)
        yield make("event occurrence", "colour then", f"What colour was the {shape} in the {room}?", colour, span, fact)
        yield make("event occurrence", "shape then", f"Which shape was {colour} in the {room}?", shape, span, fact)
        if sum(actor.name == other.name for v in seen for other in v.actors) == 1:
            yield make("event occurrence", "room of object", f"In which room was the {actor.name}?", room, span, fact)
        if actor.enters:
            yield make("event occurrence", "came in", f"What came into the {room}?", actor.name, span, fact)
        if actor.leaves:
            yield make("event occurrence", "left", f"What left the {room}?", actor.name, span, fact)
    actor = rng.choice(visit.actors)
    fact = f"{actor.name} in the {room}"
    for name, answer in ((actor.name, "yes"), (absent_name(actor, visit.actors, rng), "no")):
        text = f"Was there a {name} in the {room}?"
        yield make("event occurrence", "present then", text, answer, (visit.start, visit.end), fact)
    for activity, answer in ((actor.activity, "yes"), (other_word(actor.activity, ACTIVITIES, rng), "no")):
        text = f"Was the {actor.shape} {activity} in the {room}?"
        yield make("action", "activity check then", text, answer, (actor.start, actor.end), fact)


def absent_name(actor: Actor, present: Sequence[Actor], rng: random.Random) -> str:
    """The name of an actor with its colour or shape changed, such that nothing present has that name."""
    names = {other.name for other in present}
    while True:
        colour, shape = actor.colour, actor.shape
        if rng.random() < 0.5:
            colour = other_word(colour, COLOURS, rng)
        else:
            shape = other_word(shape, SHAPES, rng)
        if f"{colour} {shape}" not in names:
            return f"{colour} {shape}"


def other_word(word: str, words: tuple[str, ...], rng: random.Random) -> str:
    """Any of the words but the given one."""
    return rng.choice([candidate for candidate in words if candidate != word])
