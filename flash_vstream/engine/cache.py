"""Keys and values of a batch whose rows come and go.

The rows are right-aligned: each ends in the newest column. What is in front of a shorter row is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # columns that a layer allocates ahead, so that most steps copy their own token only

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [B, heads, T, width] of each layer."""


class GrowingLayer(DynamicLayer):
    """A layer whose buffers have room behind its keys and values [B, heads, T, width].

    transformers' own layer copies all that it holds at every step.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, new, width]; returns all [B, heads, T + new, width]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._grow(key_states, value_states, start, end + ROOM)
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, key_states: Tensor, value_states: Tensor, filled: int, columns: int) -> None:
        buffers = []
        for old, new in ((self.keys, key_states), (self.values, value_states)):
            buffer = new.new_empty(*new.shape[:-2], columns, new.shape[-1])
            if filled:
                assert old is not None
                buffer[..., :filled, :] = old
            buffers.append(buffer)
        self._buffers = (buffers[0], buffers[1])


def new_cache(layers: Layers) -> Cache:
    """A cache that begins with these keys and values."""
    return Cache(layers=[GrowingLayer(keys, values) for keys, values in layers])


def empty_cache(n_layers: int) -> Cache:
    """A cache of `n_layers` layers that holds nothing."""
    return Cache(layers=[GrowingLayer() for _ in range(n_layers)])


def layers_of(cache: Cache) -> Layers:
    """The keys and values of a cache; views, not copies."""
    found = []
    for layer in cache.layers:
        assert isinstance(layer, GrowingLayer) and layer.keys is not None and layer.values is not None
        found.append((layer.keys, layer.values))
    return found


def select_rows(layers: Layers, rows: Tensor, first_column: int) -> Layers:
    """Copies of the given rows without the columns before `first_column`."""
    return [(keys[rows, :, first_column:], values[rows, :, first_column:]) for keys, values in layers]


def join_rows(parts: list[Layers], masks: list[Tensor]) -> tuple[Layers, Tensor]:
    """One batch of several, right-aligned, with zeros in front of the shorter ones.

    Args:
        parts: The layers of each part [B, heads, T, width]; B and T differ.
        masks: What is to be attended to in each part, bool [B, T].

    Returns:
        The layers [sum of B, heads, largest T, width] and the mask [sum of B, largest T].
    """
    columns = max(mask.shape[1] for mask in masks)
    mask = torch.cat([torch.nn.functional.pad(mask, (columns - mask.shape[1], 0)) for mask in masks])
    layers = []
    for pairs in zip(*parts, strict=True):
        keys, values = (_right_aligned([pair[side] for pair in pairs], columns) for side in (0, 1))
        layers.append((keys, values))
    return layers, mask


def _right_aligned(tensors: list[Tensor], columns: int) -> Tensor:
    """[B, heads, T, width] of differing B and T as one [sum of B, heads, columns, width]."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([torch.nn.functional.pad(tensor, (0, 0, columns - tensor.shape[2], 0)) for tensor in tensors])


def nbytes(layers: Layers) -> int:
    """Bytes that the keys and values keep alive, with the room behind them."""
    return sum(tensor.untyped_storage().nbytes() for pair in layers for tensor in pair)
