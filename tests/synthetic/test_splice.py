"""Spliced streams: made of whole events of real visits, true to their features, never seen before."""

from pathlib import Path

import pytest
import torch

from flash_vstream.features.file import FeatureFile
from flash_vstream.synthetic.dataset import make_streams
from flash_vstream.synthetic.splice import SHORTEST_PIECE_S, splice, write_spliced
from flash_vstream.synthetic.world import Visit, make_slides

SOURCES = make_streams(0, 60, 60, 300)
SPLICED = splice(SOURCES, 1000, 80, 200, rooms=(2, 12))
BRIEF = splice(SOURCES, 2000, 80, 200, rooms=(2, 8), brief=True)


def looks(visit: Visit, at: float) -> tuple[str, list[tuple[str, str, int]]]:
    """What is in view: the room, and its objects with what they do and where."""
    return visit.room, [(actor.name, actor.activity, actor.spot) for actor in visit.present(at)]


def test_each_second_shows_what_its_source_shows() -> None:
    for item in SPLICED + BRIEF:
        clock = 0
        for piece, visit in zip(item.pieces, item.stream.visits, strict=True):
            assert visit.start == clock and piece.visit.start <= piece.start < piece.stop <= piece.visit.end
            for second in range(piece.stop - piece.start):
                assert looks(visit, clock + second) == looks(piece.visit, piece.start + second)
            clock += piece.stop - piece.start
        assert item.stream.duration == clock


def test_visits_keep_what_happens_in_them_and_rooms_come_once() -> None:
    lengths = set()
    for item in SPLICED:
        rooms = [visit.room for visit in item.stream.visits]
        assert 1 <= len(rooms) == len(set(rooms)) <= 12
        for visit in item.stream.visits:
            lengths.add(visit.end - visit.start)
            for actor in visit.actors:
                assert not actor.enters or visit.start + 5 <= actor.start <= visit.end - 5
                assert not actor.leaves or visit.start + 5 <= actor.end <= visit.end - 5
    assert min(lengths) == SHORTEST_PIECE_S and max(lengths) > 40
    assert max(item.stream.duration for item in SPLICED) <= 200
    assert len({item.pieces for item in SPLICED}) == len(SPLICED)
    assert splice(SOURCES, 1000, 80, 200, rooms=(2, 12)) == SPLICED


def test_brief_visits_show_one_still_scene_of_their_source() -> None:
    for item in BRIEF:
        assert 2 <= len(item.stream.visits) <= 8
        for piece, visit in zip(item.pieces, item.stream.visits, strict=True):
            assert visit.end - visit.start in (5, 6)
            whole = piece.source.visit_at(piece.start)
            for second in range(piece.start, piece.stop):
                assert looks(whole, second) == looks(visit, visit.start)
                assert not any(a.enters and a.start <= second < a.start + 2 for a in whole.actors)
                assert not any(a.leaves and a.end - 2 <= second < a.end for a in whole.actors)
            assert not any(actor.enters or actor.leaves for actor in visit.actors)


def test_slide_shows_are_spliced_a_second_a_room() -> None:
    shows = [make_slides(seed) for seed in range(20)]
    for item in splice(shows, 0, 30, 100, rooms=(4, 6)):
        assert item.stream.duration == len(item.stream.visits) in (4, 5, 6)
        assert all(piece.source.visit_at(piece.start) == piece.visit for piece in item.pieces)


def test_features_are_those_of_the_pieces(tmp_path: Path) -> None:
    """Each frame's feature says of which stream and second it is."""
    for source in SOURCES:
        seconds = torch.arange(source.duration)
        values = torch.stack([torch.full_like(seconds, source.seed), seconds], dim=-1)[:, None]
        FeatureFile.write(tmp_path / "features" / f"{source.seed}.safetensors", values, {"encoder": "e"})
    write_spliced(SPLICED[:9], tmp_path / "features", tmp_path / "spliced")
    for item in SPLICED[:9]:
        path = tmp_path / "spliced" / f"{item.stream.seed}.safetensors"
        file = FeatureFile(path)
        found, metadata = file.read(), file.metadata
        expected = [[p.source.seed, second] for p in item.pieces for second in range(p.start, p.stop)]
        assert found[:, 0].tolist() == expected and metadata == {"encoder": "e"}
    modified = path.stat().st_mtime_ns
    write_spliced(SPLICED[:9], tmp_path / "features", tmp_path / "spliced")
    assert path.stat().st_mtime_ns == modified


def test_too_few_sources_are_an_error() -> None:
    with pytest.raises(ValueError, match="source"):
        splice(make_streams(0, 1, 60, 60), 0, 1, 100, rooms=(2, 12))
