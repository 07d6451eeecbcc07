"""The memory's fold takes one thread; the caller, other threads and threads that start meanwhile keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from flash_vstream.memory import MemoryConfig
from flash_vstream.memory.controls import ControlMemory, Kept
from flash_vstream.memory.star import StarMemory
from flash_vstream.memory.state import Frame
from flash_vstream.memory.threads import one_thread
from tests.memory.streams import drifting_scenes


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class CountingStar(StarMemory):
    """Notes the number of threads in its fold."""

    def attend(self, abstract: Tensor, entries: Tensor) -> Tensor:
        self.found = torch.get_num_threads()
        return super().attend(abstract, entries)


class CountingControl(ControlMemory):
    """Notes the number of threads in its fold."""

    def _keep(self, kept: list[Kept], frame: Frame) -> list[Kept]:
        self.found = torch.get_num_threads()
        return super()._keep(kept, frame)


@torch.no_grad()
def test_a_fold_has_one_thread_and_its_caller_keeps_three() -> None:
    config = MemoryConfig(spatial_size=4, abstract_length=2)
    for memory in (CountingStar(config, 8), CountingControl(MemoryConfig(mode="recent", spatial_size=4), 8)):
        memory.update(memory.init_state(), drifting_scenes(10))
        assert (memory.found, torch.get_num_threads()) == (1, 3)


def test_other_threads_keep_their_number() -> None:
    @one_thread
    def found() -> tuple[int, int]:
        """The threads of this thread, and of one that starts now."""
        with ThreadPoolExecutor(1) as other:
            return torch.get_num_threads(), other.submit(torch.get_num_threads).result()

    assert found() == (1, 3)
    with ThreadPoolExecutor(1) as new:  # a thread that has not used torch before
        assert new.submit(found).result() == (1, 3)
        assert new.submit(torch.get_num_threads).result() == 3


def test_a_failure_gives_the_threads_back() -> None:
    memory = StarMemory(MemoryConfig(spatial_size=4), 8)
    with pytest.raises(ValueError, match=r"frame 3 .* NaN"):
        memory.update(memory.init_state(), drifting_scenes(5).index_fill(0, torch.tensor(3), float("nan")))
    assert torch.get_num_threads() == 3
