"""The cache of a batch holds what transformers' own does, and rows of differing lengths are right-aligned."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from flash_vstream.engine.cache import ROOM, GrowingLayer, join_rows, select_rows


def test_a_layer_that_grows_holds_what_transformers_holds() -> None:
    """Over more columns than are allocated at once, from nothing and from keys and values that are given."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 5, 4, generator=generator)
    expected, empty, begun = DynamicLayer(), GrowingLayer(), GrowingLayer(start, 2 * start)
    for layer in (expected, empty):
        layer.update(start, 2 * start)
    for _ in range(2 * ROOM):
        new = torch.randn(2, 3, 1, 4, generator=generator)
        wanted = expected.update(new, 2 * new)
        for layer in (empty, begun):
            for found, value in zip(layer.update(new, 2 * new), wanted, strict=True):
                torch.testing.assert_close(found, value, rtol=0, atol=0)
    assert start.shape[2] == 5  # the given tensors are not written to
    assert begun.get_seq_length() == expected.get_seq_length() == 5 + 2 * ROOM


def test_rows_are_joined_on_the_right() -> None:
    short, long = torch.ones(1, 1, 2, 1), 2 * torch.ones(2, 1, 3, 1)
    masks = [torch.ones(1, 2, dtype=torch.bool), torch.tensor([[False, True, True], [True, True, True]])]
    [(keys, values)], mask = join_rows([[(short, -short)], [(long, -long)]], masks)
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 1], [2, 2, 2], [2, 2, 2]]
    assert torch.equal(values, -keys)
    assert mask.tolist() == [[False, True, True], [False, True, True], [True, True, True]]
    [(keys, _)] = select_rows([(keys, values)], torch.tensor([1, 0]), 1)
    assert keys[:, 0, :, 0].tolist() == [[2, 2], [1, 1]]
