"""New training streams, spliced from the visits of rendered ones.

Rendering and encoding a stream costs far more than training on it, and a small model that sees the same 2,000 streams
ten times memorises them instead of learning to look things up (docs/log.md). Visits in another order and of other
lengths make new streams whose features already exist.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from flash_vstream.features.file import FeatureFile
from flash_vstream.synthetic.world import ROOMS, SLIDE_S, Stream, Visit

SHORTEST_PIECE_S = 8
BRIEF_S = 5, 6  # shortest and longest brief piece, long enough to ask about
CHANGE_MARGIN_S = 6  # kept of the visit before and after an object enters or leaves
TRIES = 4  # candidates for each visit, of which the one with the fewest objects seen before is taken


@dataclass(frozen=True)
class Piece:
    """Seconds `start` to `stop` of a rendered stream, within one of its visits."""

    source: Stream
    visit: Visit
    start: int
    stop: int


@dataclass(frozen=True)
class Spliced:
    """A stream that was never rendered, and the pieces it consists of."""

    stream: Stream
    pieces: tuple[Piece, ...]


def splice(
    sources: list[Stream], first_seed: int, count: int, longest_s: float, rooms: tuple[int, int], brief: bool = False
) -> list[Spliced]:
    """`count` streams made of visits of the sources; the same arguments give the same streams.

    `rooms` are the smallest and largest number of visits; a stream ends before the visit that would exceed `longest_s`.
    `brief` takes a few seconds without change of each visit. Raises ValueError if no source shows one of the rooms.
    """
    by_room: dict[str, list[tuple[Stream, Visit]]] = {room: [] for room in ROOMS}
    for source in sources:
        for visit in source.visits:
            by_room[visit.room].append((source, visit))
    missing = [room for room, visits in by_room.items() if not visits]
    if missing:
        raise ValueError(f"no source stream shows the {missing[0]}: splice more than {len(sources)} streams")
    return [_splice_one(by_room, first_seed + index, longest_s, rooms, brief) for index in range(count)]


def _splice_one(
    by_room: dict[str, list[tuple[Stream, Visit]]], seed: int, longest_s: float, rooms: tuple[int, int], brief: bool
) -> Spliced:
    rng = random.Random(f"splice-{seed}-{longest_s}")
    names: set[str] = set()
    pieces: list[Piece] = []
    visits: list[Visit] = []
    clock = 0
    for room in rng.sample(ROOMS, rng.randint(*rooms)):
        source, visit = min(
            (rng.choice(by_room[room]) for _ in range(TRIES)),
            key=lambda found: sum(actor.name in names for actor in found[1].actors),
        )
        piece = (_cut_brief if brief else _cut)(source, visit, rng)
        length = piece.stop - piece.start
        if clock + length > longest_s and pieces:
            break
        names |= {actor.name for actor in visit.actors}
        pieces.append(piece)
        visits.append(_moved(piece, clock))
        clock += length
    return Spliced(Stream(seed, float(clock), tuple(visits)), tuple(pieces))


def _cut(source: Stream, visit: Visit, rng: random.Random) -> Piece:
    """A part of a visit, of log-uniform length, that contains every change in the visit."""
    first, last = int(visit.start), int(visit.end)
    changes = [a.start for a in visit.actors if a.enters] + [a.end for a in visit.actors if a.leaves]
    begin = min([int(change) - CHANGE_MARGIN_S for change in changes], default=last)
    end = max([int(change) + CHANGE_MARGIN_S for change in changes], default=first)
    shortest = min(last - first, max(SHORTEST_PIECE_S, end - begin))
    length = round(math.exp(rng.uniform(math.log(shortest), math.log(last - first))))
    earliest, latest = max(first, end - length), min(last - length, begin)
    start = rng.randint(earliest, max(earliest, latest))
    return Piece(source, visit, start, start + length)


def _cut_brief(source: Stream, visit: Visit, rng: random.Random) -> Piece:
    """A few seconds without change of a visit, as a visit with only the objects present then."""
    length = rng.randint(*BRIEF_S)
    moves = [(actor.start, actor.start + SLIDE_S) for actor in visit.actors if actor.enters]
    moves += [(actor.end - SLIDE_S, actor.end) for actor in visit.actors if actor.leaves]
    starts = range(int(visit.start), int(visit.end) - length + 1)
    calm = [start for start in starts if all(start + length <= first or last <= start for first, last in moves)]
    start = rng.choice(calm)
    there = tuple(
        replace(actor, start=visit.start, end=visit.end, enters=False, leaves=False) for actor in visit.present(start)
    )
    return Piece(source, replace(visit, actors=there), start, start + length)


def _moved(piece: Piece, clock: int) -> Visit:
    """The visit as the new stream shows it: cut, and starting at `clock` seconds."""
    by = clock - piece.start
    actors = tuple(
        replace(actor, start=max(actor.start, piece.start) + by, end=min(actor.end, piece.stop) + by)
        for actor in piece.visit.actors
    )
    return Visit(piece.visit.room, float(clock), float(piece.stop + by), actors)


def write_spliced(spliced: Sequence[Spliced], features: Path, folder: Path) -> None:
    """Write the features of each spliced stream, joined from those of its sources (one frame a second)."""
    for item in tqdm(spliced, desc="splicing", unit="stream"):
        target = folder / f"{item.stream.seed}.safetensors"
        if not target.is_file():
            files = [FeatureFile(features / f"{piece.source.seed}.safetensors") for piece in item.pieces]
            parts = [file.read(piece.start, piece.stop) for file, piece in zip(files, item.pieces, strict=True)]
            FeatureFile.write(target, torch.cat(parts), files[0].metadata)
