"""Temporal memory: weighted centroids of the stream, merged by least Ward cost, and the frames nearest to them.

A new frame joins as a centroid of weight 1. Past `capacity`, the two centroids a, b with the least Ward cost
`w_a w_b / (w_a + w_b) * |c_a - c_b|^2` merge. For capacity + 1 weighted points into capacity clusters this is the
global optimum of weighted k-means.

Each centroid also keeps member frames near to it, the candidates of retrieval; `budget` is their total number. When it
is exceeded, the centroid with the most candidates for its weight drops a distant one. Key frames come from heavy
centroids, so these keep more candidates: with an equal share for each centroid, retrieval finds the key frames of an
exhaustive search much less often.

Layout: centroids occupy capacity + 1 slots, one of them free between frames; `order` lists the used slots in time
order. Numbers that decide a merge (weights, squared distances) are float64 on the host; features stay on their device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from flash_vstream.memory.state import Frame, array_tensor, pack_frames, tensor_nbytes, unpack_frames

# A centroid's candidates are measured again when its weight has grown by this factor; until then it has hardly moved.
REMEASURE_GROWTH = 1.1
# Share of a centroid's candidates that must lie behind its nearest one to drop from them (see `_drop_farthest`).
LEAST_BEHIND = 0.1
# Candidates compared at once: few enough for a core's cache.
COMPARED_FRAMES = 16
ARRAYS = ("weights", "times", "first_times", "last_times", "measured_weights", "distances")


class Clusters:
    """At most `capacity` centroids of `width` numbers, with `budget` member frames in all (0: none).

    Only `add` changes an object; call it on a `copy` that nobody else holds.
    """

    def __init__(self, capacity: int, budget: int, width: int, device: torch.device) -> None:
        slots = capacity + 1
        self.capacity, self.budget = capacity, budget
        self.centroids = torch.zeros(slots, width, dtype=torch.float32, device=device)
        self.order: list[int] = []
        self.weights = np.zeros(slots)
        self.times = np.zeros(slots)  # mean time of the frames a centroid stands for
        self.first_times = np.zeros(slots)
        self.last_times = np.zeros(slots)
        self.distances = np.zeros((slots, slots))  # squared
        self.members: list[tuple[Frame, ...]] = [()] * slots  # each in order of arrival
        self.member_distances: list[tuple[float, ...]] = [()] * slots  # squared, as of the last measurement
        self.measured_weights = np.zeros(slots)  # a centroid's weight at that time; 0: measure before use
        self.free = 0

    def __len__(self) -> int:
        return len(self.order)

    def copy(self) -> Clusters:
        """An independent copy. The frames, which nobody writes to, are shared."""
        other = Clusters.__new__(Clusters)
        other.__dict__.update(self.__dict__)
        other.centroids = self.centroids.clone()
        for name in ("order", "members", "member_distances", *ARRAYS):
            setattr(other, name, getattr(self, name).copy())
        return other

    def add(self, frame: Frame, scratch: Tensor | None = None) -> None:
        """Add one frame as a centroid; past capacity, merge the two centroids with the least cost.

        `scratch` is a reused buffer [capacity + 1, width] float32. Raises FloatingPointError for non-finite distances.
        """
        slot = self.free
        distances = self._measure(frame, scratch)
        self.centroids[slot] = frame.temporal
        self.weights[slot] = self.measured_weights[slot] = 1
        self.times[slot] = self.first_times[slot] = self.last_times[slot] = frame.time
        self.distances[slot], self.distances[:, slot] = distances, distances
        self.distances[slot, slot] = 0
        self.members[slot], self.member_distances[slot] = ((frame,), (0.0,)) if self.budget else ((), ())
        self.order.append(slot)
        if len(self.order) <= self.capacity:
            self.free = len(self.order)
        else:
            self._merge(*self._cheapest_pair())

    def _measure(self, frame: Frame, scratch: Tensor | None) -> np.ndarray:
        """Squared distances of the frame to every slot [capacity + 1]; also cuts the candidates down to the budget.

        Both are measured here so that a frame costs one transfer from the device.
        """
        measured = torch.linalg.vector_norm(torch.sub(self.centroids, frame.temporal, out=scratch), dim=1)
        crowded = self._most_crowded()
        stale = crowded >= 0 and self.weights[crowded] > REMEASURE_GROWTH * self.measured_weights[crowded]
        if stale:
            measured = torch.cat((measured, _distances(self.members[crowded], self.centroids[crowded, None])[0]))
        values = measured.cpu().numpy().astype(np.float64) ** 2
        if not np.isfinite(values).all():
            raise FloatingPointError("a distance is not finite")
        if stale:
            self.member_distances[crowded] = tuple(values[self.capacity + 1 :].tolist())
            self.measured_weights[crowded] = self.weights[crowded]
        if crowded >= 0:
            self._drop_farthest(crowded)
        return values[: self.capacity + 1]

    def _most_crowded(self) -> int:
        """The slot with the most candidates for its weight, which drops one; -1 while all are within the budget."""
        counts = [len(members) for members in self.members]
        if sum(counts) <= self.budget:
            return -1
        # A centroid's nearest frame stays, unless the budget is one frame for each and all have one.
        several = [slot for slot in self.order if counts[slot] > 1]
        return max(several, key=lambda slot: counts[slot] / self.weights[slot])

    def _drop_farthest(self, slot: int) -> None:
        """Drop the slot's farthest candidate: of those behind its nearest one if there are enough, otherwise of all.

        Behind means earlier: while its scene lasts, a centroid moves towards the newer frames.
        """
        distances, members = self.member_distances[slot], self.members[slot]
        behind = distances.index(min(distances))
        count = behind if behind >= LEAST_BEHIND * len(members) and behind else len(members)
        newest_first = distances[:count][::-1]  # of equal distances the newest is dropped
        farthest = count - 1 - newest_first.index(max(newest_first))
        self.members[slot] = members[:farthest] + members[farthest + 1 :]
        self.member_distances[slot] = distances[:farthest] + distances[farthest + 1 :]

    def _cheapest_pair(self) -> tuple[int, int]:
        """The slots (older, newer) with the least Ward cost; of equal costs the pair that comes first in time order."""
        weights = self.weights
        cost = self.distances * (weights[:, None] * weights) / (weights[:, None] + weights)
        np.fill_diagonal(cost, np.inf)
        rows, columns = np.nonzero(cost == cost.min())
        rank = np.empty(len(weights), dtype=np.int64)
        rank[self.order] = np.arange(len(weights))
        # The matrix is symmetric, so the lowest (rank of row, rank of column) has the older slot as its row.
        first = np.argmin(rank[rows] * len(weights) + rank[columns])
        return int(rows[first]), int(columns[first])

    def _merge(self, older: int, newer: int) -> None:
        """Merge slot `newer` into `older` and free it."""
        a, b = self.weights[older], self.weights[newer]
        total = a + b
        self.centroids[older].lerp_(self.centroids[newer], b / total)
        # Lance-Williams: the exact squared distances to the weighted mean of the two.
        between = self.distances[older, newer]
        merged = (a * self.distances[older] + b * self.distances[newer]) / total - a * b / total**2 * between
        np.maximum(merged, 0, out=merged)
        merged[older] = 0
        self.distances[older], self.distances[:, older] = merged, merged
        self.weights[older] = total
        self.times[older] = (a * self.times[older] + b * self.times[newer]) / total
        self.first_times[older] = min(self.first_times[older], self.first_times[newer])
        self.last_times[older] = max(self.last_times[older], self.last_times[newer])
        self._join_members(older, newer, a, b, between)
        self.order.remove(newer)
        # A merged mean time can pass its neighbours'; the sort is stable and the list nearly sorted.
        self.order.sort(key=self.times.__getitem__)
        self.free = newer

    def _join_members(self, older: int, newer: int, a: float, b: float, between: float) -> None:
        """Give slot `older` the candidates of `newer`; a and b are their weights before the merge."""
        # A single frame's distance to the merged centroid is known; the distances of the others have hardly changed.
        of_older, of_newer = self.member_distances[older], self.member_distances[newer]
        if b == 1:
            of_newer = tuple((a / (a + b)) ** 2 * between for _ in of_newer)
        elif a == 1:
            of_older = tuple((b / (a + b)) ** 2 * between for _ in of_older)
            self.measured_weights[older] = self.measured_weights[newer]
        else:
            self.measured_weights[older] = 0
        early, late = self.members[older], self.members[newer]
        frames, distances = early + late, of_older + of_newer
        if early and late and late[0].index < early[-1].index:
            places = sorted(range(len(frames)), key=lambda n: frames[n].index)
            frames, distances = tuple(frames[n] for n in places), tuple(distances[n] for n in places)
        self.members[older], self.member_distances[older] = frames, distances
        self.members[newer] = self.member_distances[newer] = ()

    def in_order(self, values: np.ndarray) -> np.ndarray:
        """A per-slot array in time order, as a copy."""
        return values[self.order]

    def centroids_in_order(self) -> Tensor:
        """The centroids in time order [n, width], as a copy."""
        return self.centroids[self.order]

    def nearest_frames(self, count: int) -> tuple[Frame, ...]:
        """For each of the `count` heaviest centroids (the older of equal ones first) the nearest of all candidates."""
        heaviest = sorted(self.order, key=lambda slot: -self.weights[slot])[:count]
        frames = sorted((frame for slot in self.order for frame in self.members[slot]), key=lambda f: f.index)
        if not frames or not heaviest:
            return ()
        nearest = _distances(frames, self.centroids[heaviest]).argmin(dim=1)
        return tuple(frames[index] for index in nearest.tolist())

    @property
    def nbytes(self) -> int:
        """Bytes kept alive, without the member frames (which other parts of a state may share)."""
        numbers = sum(getattr(self, name).nbytes for name in ARRAYS)
        return tensor_nbytes([self.centroids]) + numbers + 8 * sum(map(len, self.member_distances))

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for storage."""
        members = [(slot, frame) for slot, frames in enumerate(self.members) for frame in frames]
        return {
            "clusters.centroids": self.centroids.clone(),
            "clusters.order": torch.tensor(self.order, dtype=torch.int64),
            "clusters.free": torch.tensor(self.free),
            **{f"clusters.{name}": array_tensor(getattr(self, name)) for name in ARRAYS},
            **pack_frames("members", [frame for _, frame in members]),
            "members.slot": torch.tensor([slot for slot, _ in members], dtype=torch.int64),
            "members.distance": torch.tensor(list(chain(*self.member_distances)), dtype=torch.float64),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `to_tensors` gave; for a new object of the same sizes."""
        self.centroids.copy_(tensors["clusters.centroids"])
        self.order = tensors["clusters.order"].tolist()
        self.free = int(tensors["clusters.free"])
        for name in ARRAYS:
            setattr(self, name, tensors[f"clusters.{name}"].cpu().numpy().copy())
        slots, distances = tensors["members.slot"].tolist(), tensors["members.distance"].tolist()
        for slot, distance, frame in zip(slots, distances, unpack_frames("members", tensors), strict=True):
            self.members[slot] += (frame,)
            self.member_distances[slot] += (distance,)


def _distances(frames: Sequence[Frame], centroids: Tensor) -> Tensor:
    """Distances of `frames` to each of `centroids` [n, width]: [n, len(frames)]."""
    parts = []
    for start in range(0, len(frames), COMPARED_FRAMES):
        stacked = torch.stack([frame.temporal for frame in frames[start : start + COMPARED_FRAMES]])
        parts.append(torch.stack([torch.linalg.vector_norm(stacked - centroid, dim=1) for centroid in centroids]))
    return torch.cat(parts, dim=1)
