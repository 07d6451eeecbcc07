"""The semantic attention that updates the abstract memory (arXiv 2406.08085, section 3.2), always in float32.

    A = softmax(q(M) k(E)^T / sqrt(d)),   M <- (1 - r) M + r A E

M are the memory's tokens, E the tokens of a block of new entries. q and k are the memory's only trained weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever its weights' dtype (bfloat16 training, float16 serving)."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] of any float dtype -> [..., out] float32."""
        return _float32_linear(self, input)


def _float32_linear(layer: nn.Linear, values: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(values.float(), layer.weight.float(), bias)


def _project(layer: nn.Module, values: Tensor) -> Tensor:
    # Any other module than a plain nn.Linear computes by itself, so that offloading and adapters around it take effect.
    # `forward` skips the module's hooks: ZeRO-3's must not count these calls, whose number differs between processes.
    return _float32_linear(layer, values) if type(layer) is nn.Linear else layer.forward(values)


def attend(memory: Tensor, entries: Tensor, q_proj: nn.Module, k_proj: nn.Module, ratio: float) -> Tensor:
    """One update of the memory [N, S, D] by a block of entries [n, S, D]; `ratio` is r. Returns a new float32 tensor.

    Attention runs over all tokens of all entries. Gradients reach q, k and the memory before the update.
    """
    dim = memory.shape[-1]
    with torch.autocast(memory.device.type, enabled=False):
        tokens, block = memory.reshape(-1, dim).float(), entries.reshape(-1, dim).float()
        queries, keys = _project(q_proj, tokens), _project(k_proj, block)
        weights = torch.softmax(queries @ keys.T / math.sqrt(queries.shape[-1]), dim=-1)
        return ((1 - ratio) * tokens + ratio * (weights @ block)).view(memory.shape)
