"""Batches of one kind and length, in an order that no number of processes changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard  # type: ignore[import-untyped]
from torch.utils.data import BatchSampler

from flash_vstream.data import GroupedSampler, grouped_order

BATCH = 8
COUNTS = {"video": 301, "image": 530, "text": 100}


def world() -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(0)
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    random.shuffle(kinds)
    least = {"video": 681, "image": 64, "text": 1}
    return np.array([least[kind] + random.integers(0, 500) for kind in kinds]), kinds


def test_each_index_comes_once_in_batches_of_one_kind() -> None:
    lengths, kinds = world()
    order = grouped_order(lengths, kinds, BATCH, seed=3, epoch=0)
    assert sorted(order) == list(range(len(kinds)))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    alike = Counter(kinds[batch[0]] for batch in batches if len({kinds[index] for index in batch}) == 1)
    assert alike == {kind: count // BATCH for kind, count in COUNTS.items()}
    # 5 videos, 2 images and 4 texts are left: 11, of which the last 3 are short of a batch.
    mixed = [batch for batch in batches if len({kinds[index] for index in batch}) > 1]
    assert [len(batch) for batch in mixed] == [8, 3]
    assert len(batches[-1]) == 3
    assert all(any(kinds[index] != "text" for index in batch) for batch in mixed)


def test_lengths_in_a_batch_are_alike_and_batches_are_mixed() -> None:
    lengths, kinds = world()
    order = grouped_order(lengths, kinds, BATCH, seed=3, epoch=0)
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    whole = [batch for batch in batches if len({kinds[index] for index in batch}) == 1]
    spread = np.array([np.ptp(lengths[batch]) for batch in whole])
    assert spread.mean() < 500 / 10  # at random it would be 500 * 7 / 9
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in whole)
    firsts = np.array([lengths[batch].max() for batch in whole])
    assert abs(np.corrcoef(np.arange(len(firsts)), firsts)[0, 1]) < 0.3
    assert len({kinds[batch[0]] for batch in whole[:15]}) > 1


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    lengths, kinds = world()
    order = grouped_order(lengths, kinds, BATCH, 3, 0)
    assert grouped_order(lengths.tolist(), kinds, BATCH, 3, 0) == order
    assert grouped_order(lengths, kinds, BATCH, 4, 0) != order
    sampler = GroupedSampler(lengths, kinds, BATCH, 3)
    assert list(sampler)[: len(order)] == order
    sampler.set_epoch(1)
    assert list(sampler)[: len(order)] == grouped_order(lengths, kinds, BATCH, 3, 1) != order
    sampler.set_epoch(0)
    assert list(sampler)[: len(order)] == order


@pytest.mark.parametrize("count", [931, 5, 8])
def test_every_number_of_processes_takes_the_same_steps(count: int) -> None:
    """As accelerate deals them out: micro-batches in turn, then so many of them to a step."""
    lengths, kinds = world()
    sampler = GroupedSampler(lengths[:count], kinds[:count], BATCH, 3)

    def steps(n_processes: int, micro: int) -> list[list[int]]:
        shards = [
            list(BatchSamplerShard(BatchSampler(sampler, micro, drop_last=False), n_processes, process))
            for process in range(n_processes)
        ]
        assert len({len(shard) for shard in shards}) == 1
        accumulation = BATCH // (micro * n_processes)
        return [
            sorted(index for shard in shards for part in shard[start : start + accumulation] for index in part)
            for start in range(0, len(shards[0]), accumulation)
        ]

    alone = steps(1, BATCH)
    assert len(alone) == -(-count // BATCH) == len(sampler) / BATCH
    assert all(len(step) == BATCH for step in alone)
    assert set(range(count)) == {index for step in alone for index in step}
    for n_processes, micro in ((1, 1), (2, 4), (2, 1), (4, 2), (8, 1)):
        assert steps(n_processes, micro) == alone


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        grouped_order([1], ["text"], 0, 0, 0)
    with pytest.raises(ValueError, match="2 lengths but 1 modalities"):
        grouped_order([1, 2], ["text"], 1, 0, 0)
    assert grouped_order([3, 1], ["text", "text"], 4, 0, 0) in ([0, 1], [1, 0])
