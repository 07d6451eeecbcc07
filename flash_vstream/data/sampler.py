"""The order of the items in training: batches of one modality and similar length, in random order.

A batch here is a global one, what one optimizer step sees. The order is a list of indices of which each stretch of
`batch_size` is such a batch. The Trainer deals it out in micro-batches to its processes in turn, so each step sees the
same items however many processes and accumulation steps share it; the order knows of neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

POOL = 50  # batches whose items are sorted by length together: large enough to be alike, small enough to be mixed


def grouped_order(
    lengths: NDArray[np.integer] | Sequence[int], modalities: Sequence[str], batch_size: int, seed: int, epoch: int
) -> list[int]:
    """Every index once. Each stretch of `batch_size` holds one modality and similar lengths, the longest first.

    The rest of each modality, less than a batch, is spread over mixed batches: a batch of text alone occurs only if
    nothing but text is left; the last batch may be short. The other batches come in random order. Raises ValueError
    if batch_size is below 1 or lengths and modalities are not equally many.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give the global batch size, at least 1")
    if len(lengths) != len(modalities):
        raise ValueError(f"there are {len(lengths)} lengths but {len(modalities)} modalities: give one of each an item")
    all_lengths, kinds = np.asarray(lengths), np.asarray(modalities)
    random = np.random.default_rng([seed, epoch])
    batches: list[NDArray[np.int64]] = []
    left_over: list[NDArray[np.int64]] = []
    for kind in sorted(set(modalities)):
        members = random.permutation(np.flatnonzero(kinds == kind))
        n_whole = len(members) // batch_size * batch_size
        for start in range(0, n_whole, POOL * batch_size):
            pool = members[start : min(start + POOL * batch_size, n_whole)]
            pool = pool[np.argsort(-all_lengths[pool], kind="stable")]
            batches += np.split(pool, len(pool) // batch_size)
        left_over.append(members[n_whole:])
    mixed = _interleaved(left_over)
    n_whole = len(mixed) // batch_size * batch_size
    batches += [mixed[start : start + batch_size] for start in range(0, n_whole, batch_size)]
    order = [batches[number] for number in random.permutation(len(batches))]
    return np.concatenate([*order, mixed[n_whole:]]).astype(np.int64).tolist()


def _interleaved(groups: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All members of all groups, each group spread evenly over the whole."""
    if not groups:
        return np.empty(0, np.int64)
    places = [(np.arange(len(group)) + 0.5) / max(1, len(group)) for group in groups]
    return np.concatenate(groups)[np.argsort(np.concatenate(places), kind="stable")]


class GroupedSampler(Sampler[int]):
    """`grouped_order` for one epoch after another, filled up to whole global batches.

    The last batch takes what it lacks from the beginning of the same order. Accelerate would do so too, but how far
    depends on the number of processes, and the last step of an epoch would too. Call `set_epoch` before each epoch.
    """

    def __init__(
        self, lengths: NDArray[np.integer] | Sequence[int], modalities: Sequence[str], batch_size: int, seed: int
    ) -> None:
        self.lengths, self.modalities, self.batch_size, self.seed = lengths, modalities, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which the order depends on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = grouped_order(self.lengths, self.modalities, self.batch_size, self.seed, self.epoch)
        return iter(np.resize(order, len(self)).tolist())
