"""The synthetic world: reproducible, within its bounds, and every question has the one right answer it claims."""

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from flash_vstream.synthetic.dataset import (
    finetune_records,
    frame_records,
    held_out_questions,
    make_streams,
    notes_records,
    slide_records,
    story,
)
from flash_vstream.synthetic.notes import LONGEST_RUN, MOST_STATEMENTS, frame_notes, notes
from flash_vstream.synthetic.questions import BACK_THEN_S, KINDS, all_questions, ask_times, choose
from flash_vstream.synthetic.render import FRAME_SIZE, render_visit, write_mp4
from flash_vstream.synthetic.world import (
    ACTIVITIES,
    ROOMS,
    SHORTEST_VISIT_S,
    SLIDE_S,
    Stream,
    caption,
    make_slides,
    make_stream,
)
from flash_vstream.video import read_frames

STREAMS = [make_stream(seed) for seed in range(40)]


def test_a_seed_always_gives_the_same_stream() -> None:
    assert make_stream(7) == make_stream(7)
    assert make_stream(7) != make_stream(8)


@pytest.mark.parametrize(("shortest", "longest"), [(10, 60), (60, 2000), (100, 90)])
def test_lengths_outside_the_bounds_are_named(shortest: float, longest: float) -> None:
    with pytest.raises(ValueError, match=f"{shortest} to {longest}"):
        make_stream(0, shortest, longest)


def test_streams_last_1_to_20_minutes_and_visits_fill_them() -> None:
    lengths = [stream.duration for stream in STREAMS]
    assert min(lengths) >= 60 and max(lengths) <= 1200 and max(lengths) > 600 and min(lengths) < 120
    for stream in STREAMS:
        assert stream.visits[0].start == 0 and stream.visits[-1].end == stream.duration
        for before, after in zip(stream.visits[:-1], stream.visits[1:], strict=True):
            assert before.end == after.start
        assert all(visit.end - visit.start >= SHORTEST_VISIT_S - 1 for visit in stream.visits)
        assert len({visit.room for visit in stream.visits}) == len(stream.visits)


def test_in_one_visit_a_colour_or_a_shape_or_a_spot_means_one_object() -> None:
    for stream in STREAMS:
        for visit in stream.visits:
            for attribute in ("colour", "shape", "spot"):
                values = [getattr(actor, attribute) for actor in visit.actors]
                assert len(values) == len(set(values))


def test_asking_outside_the_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match=str(STREAMS[0].duration)):
        STREAMS[0].visit_at(STREAMS[0].duration + 1)


def second_by_second(stream: Stream, until: float) -> list[tuple[float, str, dict[str, str]]]:
    """What a watcher notes each second: (time, room, {object: activity}); read from captions, not from the actors."""
    noted = []
    for second in range(int(until) + 1):
        room, objects = caption(stream.visit_at(second), second).removeprefix("a ").split(": ")
        seen = {}
        for part in objects.split(", ") if objects != "nothing" else []:
            *_, colour, shape, activity = part.split()
            seen[f"{colour} {shape}"] = activity
        noted.append((float(second), room, seen))
    return noted


def answers_from_notes(question: str, template: str, notes: list[tuple[float, str, dict[str, str]]]) -> set[str]:
    """All answers that the notes allow, found without the generator's rules."""
    words = question.strip("?").replace(",", "").split()
    _, room_now, seen_now = notes[-1]
    order = list(dict.fromkeys(room for _, room, _ in notes))
    room_words = [word for word in words if word in order]
    in_room = [seen for _, room, seen in notes if room_words and room == room_words[-1]]
    objects = {name: activity for seen in in_room for name, activity in seen.items()}
    if template == "room now":
        return {room_now}
    if template == "count now":
        return {["zero", "one", "two", "three", "four"][len(seen_now)]}
    if template == "activity now":
        return {act for name, act in seen_now.items() if name.split()[1] == words[3]}
    if template == "colour now":
        return {name.split()[0] for name in seen_now if name.split()[1] == words[4]}
    if template == "shape now":
        return {name.split()[1] for name in seen_now if name.split()[0] == words[3]}
    if template == "present now":
        return {"yes" if " ".join(words[3:5]) in seen_now else "no"}
    if template == "activity check now":
        return {"yes" if any(n.split()[1] == words[2] and a == words[3] for n, a in seen_now.items()) else "no"}
    if template == "room check now":
        return {"yes" if words[2] == room_now else "no"}
    if template == "first room":
        return {order[0]}
    if template == "room after":
        return {order[order.index(room_words[0]) + 1]}
    if template == "room before":
        return {order[order.index(room_words[0]) - 1]}
    if template == "order check":
        return {"yes" if order.index(room_words[0]) < order.index(room_words[1]) else "no"}
    if template == "first of three":
        return {min(room_words, key=order.index)}
    if template == "activity then":
        return {act for name, act in objects.items() if name.split()[1] == words[3]}
    if template == "colour then":
        return {name.split()[0] for name in objects if name.split()[1] == words[4]}
    if template == "shape then":
        return {name.split()[1] for name in objects if name.split()[0] == words[3]}
    if template == "room of object":
        return {room for _, room, seen in notes if " ".join(words[5:7]) in seen}
    if template == "present then":
        return {"yes" if " ".join(words[3:5]) in objects else "no"}
    if template == "activity check then":
        return {"yes" if any(n.split()[1] == words[2] and a == words[3] for n, a in objects.items()) else "no"}
    if template == "came in":
        return {name for name in objects if name not in in_room[0]}
    if template == "left":
        return {name for name in objects if name not in in_room[-1]}
    raise AssertionError(f"no independent rule for {template}")


def test_every_question_has_exactly_the_answer_a_watcher_would_give() -> None:
    rng = random.Random(0)
    checked: Counter[str] = Counter()
    for stream in STREAMS:
        for asked_at in ask_times(stream, 2, rng):
            noted = second_by_second(stream, asked_at)
            for item in all_questions(stream, asked_at, rng):
                assert answers_from_notes(item.question, item.template, noted) == {item.answer}, item
                checked[item.template] += 1
                assert item.evidence[1] <= item.asked_at
                if item.split == "back then":
                    assert item.asked_at - item.evidence[1] >= BACK_THEN_S
                else:
                    assert item.evidence == (asked_at, asked_at)
                assert item.kind in KINDS
    assert len(checked) == 21 and min(checked.values()) >= 10


def test_held_out_questions_cover_kinds_and_are_balanced() -> None:
    rows = held_out_questions(make_streams(500, 60, 60, 1200), asks_each=2, questions_each=15)
    assert {row["answer_type"] for row in rows} == set(KINDS)
    by_template: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        by_template[row["template"]][row["answer"]] += 1
    for template, answers in by_template.items():
        share = answers.most_common(1)[0][1] / answers.total()
        assert share <= (0.56 if set(answers) <= {"yes", "no"} else 0.5), (template, answers)
    assert len({row["id"] for row in rows}) == len(rows)


def test_records_have_the_format_of_the_real_data_sets() -> None:
    streams = make_streams(0, 6, 60, 200)
    for record in [*frame_records(streams, 2), *notes_records(streams, 2), *finetune_records(streams, 1, 2, 6)]:
        assert record["video"].endswith(".mp4")
        speakers = [turn["from"] for turn in record["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2)
        assert record["conversations"][0]["value"].endswith("\n<image>")
        assert ("end_time" in record) != ("time" in record)


def statement_holds(statement: str, noted: list[tuple[float, str, dict[str, str]]]) -> bool:
    """Whether a statement of the notes is true, found without the rules that made it."""
    subject, value = statement.split(": ")
    words = subject.split()
    _, room_now, seen_now = noted[-1]
    order = list(dict.fromkeys(room for _, room, _ in noted))
    in_room = [seen for _, room, seen in noted if room == words[-1]]
    if words[0] == "first":  # "first: attic", "first the office the attic: attic, office"
        among = words[2::2] or order[:1]
        return value.split(", ") == sorted(among, key=order.index)
    if subject == "now":
        return value == f"{room_now}, {['zero', 'one', 'two', 'three', 'four'][len(seen_now)]}"
    if words[0] in ("after", "before"):  # "before the attic: office, kitchen"
        run = order if words[0] == "after" else order[::-1]
        start = run.index(words[-1]) + 1
        return value.split(", ") == run[start : start + value.count(",") + 1]
    if words[0] == "in":  # "in the attic: red ring, blue bar"
        names = value.split(", ")
        still = all(seen.keys() == in_room[0].keys() for seen in in_room)
        return names == list(in_room[0]) if still else set(names) == {name for seen in in_room for name in seen}
    if value == "no" and words[0] in ("came", "left"):
        return all(seen.keys() == in_room[0].keys() for seen in in_room)
    if words[0] == "came":
        return value not in in_room[0] and any(value in seen for seen in in_room)
    if words[0] == "left":
        return value in in_room[0] and value not in in_room[-1]
    if words[2:4] == ["before", "the"]:  # "the kitchen before the attic: yes"
        return (value == "yes") == (order.index(words[1]) < order.index(words[4]))
    where = [seen_now] if words[-1] == "now" else in_room
    if value in ("yes", "no"):  # "a red ring in the attic: yes", "a red one now: no", "ring singing now: no"
        if subject.endswith(f"the {words[1]} now"):
            return (value == "yes") == (words[1] == room_now)
        if words[0] == "a":
            looked_for = set(words[1 : words.index(words[-1] if words[-1] == "now" else "in")]) - {"one"}
            return (value == "yes") == any(looked_for <= set(name.split()) for seen in where for name in seen)
        is_so = any(name.endswith(words[0]) and seen[name] == words[1] for seen in where for name in seen)
        return (value == "yes") == is_so
    parts = value.split(", ")
    (activity,) = (part for part in parts if part in ACTIVITIES)
    (other,) = (part for part in parts if part not in ACTIVITIES)
    if words[-1] != "now" and "in" not in words:  # "the red ring: kitchen, singing"
        where, name = [seen for _, room, seen in noted if room == other], " ".join(words[1:])
    else:  # "the ring now: red, singing", "the red one now: singing, ring"
        name = f"{words[1]} {other}" if words[2] == "one" else f"{other} {words[1]}"
    return any(seen.get(name) == activity for seen in where)


def test_slides_show_every_room_once_with_one_object_or_two() -> None:
    shows = [make_slides(seed) for seed in range(200)]
    counts = Counter(len(visit.actors) for show in shows for visit in show.visits)
    assert counts.keys() == {1, 2} and 0.7 < counts[1] / counts.total() < 0.85  # some scenes have one object anyway
    for show in shows:
        assert sorted(visit.room for visit in show.visits) == sorted(ROOMS)
        assert [visit.start for visit in show.visits] == list(range(12)) and show.duration == 12
        for visit in show.visits:
            assert all((actor.start, actor.end) == (visit.start, visit.end) for actor in visit.actors)
            assert visit.present(visit.start) == sorted(visit.actors, key=lambda actor: actor.spot)
    assert make_slides(3) == make_slides(3) != make_slides(4)


def test_notes_on_slides_list_half_of_the_rooms() -> None:
    shows = [make_slides(seed) for seed in range(100)]
    records = slide_records(shows)
    assert len(records) == 400
    bare = 0
    for record in records:
        show = shows[int(record["video"].removesuffix(".mp4"))]
        noted = second_by_second(show, record["end_time"] - 1)
        text = record["conversations"][1]["value"]
        if not text.startswith("in the"):  # "attic black ring. kitchen red bar"
            bare += 1
            text = re.sub(r"(^|\. )(\w+) ", r"\1in the \2: ", text)
        statements = text.split(". ")
        assert all(statement.startswith("in the") and statement_holds(statement, noted) for statement in statements)
        assert len({statement.split(":")[0] for statement in statements}) == len(statements)
        assert len(statements) == max(1, record["end_time"] // 2)  # all others would give the last away
    assert 0.4 < bare / len(records) < 0.6
    assert {record["end_time"] for record in records} >= {1, 2, 3, 4, 12}


def test_every_note_is_true_and_no_two_tell_of_one_object() -> None:
    rng = random.Random(0)
    forms: Counter[str] = Counter()
    halves = 0
    for stream in STREAMS:
        for until in ask_times(stream, 3, rng):
            statements = notes(stream, until, rng).split(". ")
            noted = second_by_second(stream, until)
            for statement in statements:
                assert statement_holds(statement, noted), (statement, stream.seed, until)
                subject, values = statement.split(": ")
                if subject.startswith(("after", "before")):
                    assert len(values.split(", ")) <= LONGEST_RUN
                if subject.startswith("in the") and len(statements) < MOST_STATEMENTS:  # none was left out
                    counts = {len(seen) for _, room, seen in noted if room == subject.split()[-1]}
                    changed = {f"{verb} the {subject.split()[-1]}" for verb in ("came into", "left")}
                    assert (len(counts) > 1) <= any(other.split(": ")[0] in changed for other in statements)
                forms[statement.split()[0]] += 1
                forms[statement.split(": ")[1]] += not statement.startswith(("came", "left"))
            runs = [statement.split(": ")[1] for statement in statements if statement.startswith(("after", "before"))]
            if len(runs) > 1:  # half of the rooms: the last one cannot be guessed
                rooms = len({room for _, room, _ in noted})
                assert sum(len(run.split(", ")) for run in runs) < rooms - 1
                halves += 1
            assert len(statements) <= MOST_STATEMENTS
            assert len({statement.split(":")[0] for statement in statements}) == len(statements)
            (scene,) = {stream.visit_at(until)}
            for statement in frame_notes(scene, until, rng).split(". "):
                assert statement_holds(statement, noted[-1:]), statement
    assert {"in", "first:", "first", "now:", "after", "before", "came", "left", "the", "a"} <= set(forms)
    assert 0.8 < forms["yes"] / forms["no"] < 1.25 and halves > 5


def test_a_story_tells_the_rooms_in_order() -> None:
    stream = STREAMS[2]
    text = story(stream, stream.duration)
    positions = [text.index(f"a {visit.room}:") for visit in stream.visits]
    assert positions == sorted(positions)


def test_frames_show_what_is_there_and_only_that() -> None:
    visit = next(v for s in STREAMS for v in s.visits if any(a.enters for a in v.actors))
    actor = next(a for a in visit.actors if a.enters)
    row, column = divmod(actor.spot, 2)
    half = FRAME_SIZE // 2
    quarter = np.s_[row * half : (row + 1) * half, column * half : (column + 1) * half]
    before, after = render_visit(visit, actor.start - 1)[quarter], render_visit(visit, actor.start + SLIDE_S)[quarter]
    assert (before.astype(int) - after).any()
    empty = render_visit(visit, actor.start - 2)[quarter]
    np.testing.assert_array_equal(before, empty)


def test_a_written_video_reads_back_as_the_frames_drawn(tmp_path) -> None:  # type: ignore[no-untyped-def]
    stream = make_stream(3, 60, 70)
    path = tmp_path / "clip.mp4"
    write_mp4(stream, path, fps=1)
    frames = [frame for frame, _ in read_frames(str(path), fps=1.0)]
    assert len(frames) == int(stream.duration) and list(tmp_path.iterdir()) == [path]
    for second in (0, 20, len(frames) - 1):
        drawn = render_visit(stream.visit_at(second), second).astype(int)
        assert np.abs(drawn - frames[second]).mean() < 8  # H.264 with halved colour resolution


def test_no_turn_of_a_conversation_gives_away_another() -> None:
    """Each room and each object of a room is asked about once, whichever way the question names it."""
    rng = random.Random(1)
    for stream in STREAMS:
        (asked_at,) = ask_times(stream, 1, rng)
        questions = all_questions(stream, asked_at, rng, back_then_s=2.0)
        for visit in stream.visits:
            for actor in visit.actors:
                named = [f"the {actor.shape} in the {visit.room}?", f"was {actor.colour} in the {visit.room}?"]
                about = [q for q in questions if any(q.question.endswith(name) for name in named)]
                about += [q for q in questions if q.question == f"In which room was the {actor.name}?"]
                assert all(a.facts & b.facts for a in about for b in about)
        chosen = choose(questions, 12, rng, Counter(), set())
        facts = [fact for question in chosen for fact in question.facts]
        assert len(facts) == len(set(facts))
