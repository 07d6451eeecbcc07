"""Files become batches of one size; a decoder that crashes takes only its file with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flash_vstream.features.decode import Chunk, Decoding, decode, pack_batches, prefetch
from flash_vstream.features.inputs import MediaFile
from flash_vstream.model import FramePreprocessor
from tests.video.clips import write_clip


def test_a_decoder_that_crashes_is_a_fault_of_its_file_only(tmp_path: Path) -> None:
    media = [MediaFile(Path(f"{number}.mp4"), 1) for number in range(3)]
    for file in media:
        write_clip(tmp_path / file.path, range(0, 20_000, 500))
    decoding = Decoding(tmp_path, FramePreprocessor(size=32, crop_size=32), 2.0, pad=False, dtype=torch.float32)
    chunks = decode(media, decoding, n_workers=1)
    victim = next(chunks).file
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    ends = {chunk.file: chunk.fault for chunk in chunks if chunk.pixels is None}
    assert set(ends) == set(media)
    # The worker may have ended its file before the signal; then the next file is the victim.
    crashed = [file for file, fault in ends.items() if fault is not None]
    assert len(crashed) == 1 and crashed[0] in media[: media.index(victim) + 2]
    assert "crashed (exit code -9)" in str(ends[crashed[0]])


def test_batches_fill_across_files_and_keep_their_size() -> None:
    first, second, third = (MediaFile(Path(name), 1) for name in ("a.mp4", "b.mp4", "c.mp4"))
    pixels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    chunks = [Chunk(first, pixels[:3]), Chunk(second, pixels[3:8]), Chunk(first), Chunk(third, fault="broken")]
    made = list(pack_batches([*chunks, Chunk(second)], 4))
    assert [batch[:, 0, 0, 0].tolist() for batch, _ in made if batch is not None] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    spans = [[(span.file.path.stem, span.n_frames, span.is_end, span.fault) for span in own] for _, own in made]
    ends = [("a", 0, True, None), ("c", 0, True, "broken"), ("b", 0, True, None)]
    assert spans == [[("a", 3, False, None), ("b", 1, False, None)], [("b", 4, False, None), *ends]]
    ((filled, _),) = pack_batches([Chunk(first, pixels[1:3])], 4)
    assert filled is not None and filled[:, 0, 0, 0].tolist() == [1, 2, 0, 0]
    assert next(iter(pack_batches([chunks[3]], 4)))[0] is None


def test_prefetching_has_a_limit_and_passes_errors_on() -> None:
    made: list[int] = []
    sixth = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if len(made) > 5:
                sixth.set()
            yield number

    taken = prefetch(numbers(), 3)
    assert next(taken) == 0
    assert not sixth.wait(0.3) and len(made) <= 5  # one taken, three in the queue, one to be put
    assert list(taken) == list(range(1, 100))
    with pytest.raises(ZeroDivisionError):
        list(prefetch((1 // number for number in (1, 0)), 3))
