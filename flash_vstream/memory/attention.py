"""The semantic attention that keeps the abstract memory (arXiv 2406.08085, section 3.2), always in float32.

    A = softmax(q(M) k(E)^T / sqrt(d)),   M <- (1 - r) M + r A E

M are the memory's tokens, E a block of new entries' tokens.  q and k are the memory's only trained weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever its weights' dtype is (bfloat16 training, float16 serving)."""

    def forward(self, input: Tensor) -> Tensor:
        return _float32_linear(self, input)


def _float32_linear(layer: nn.Linear, values: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(values.float(), layer.weight.float(), bias)


def _project(layer: nn.Module, values: Tensor) -> Tensor:
    # Anything but a plain nn.Linear computes by itself, so that offloading and adapters around it take part. Past the
    # module's own hooks: those of DeepSpeed's ZeRO-3 must not see how often this is done, as it differs by process.
    return _float32_linear(layer, values) if type(layer) is nn.Linear else layer.forward(values)


def attend(memory: Tensor, entries: Tensor, q_proj: nn.Module, k_proj: nn.Module, ratio: float) -> Tensor:
    """One update of the abstract memory [N, S, D] by a block of entries [n, S, D]; float32, new tensor [N, S, D].

    Attention runs over all tokens of all entries.  Gradients reach q and k, and the memory that came before.
    """
    dim = memory.shape[-1]
    with torch.autocast(memory.device.type, enabled=False):
        tokens, block = memory.reshape(-1, dim).float(), entries.reshape(-1, dim).float()
        queries, keys = _project(q_proj, tokens), _project(k_proj, block)
        weights = torch.softmax(queries @ keys.T / math.sqrt(queries.shape[-1]), dim=-1)
        return ((1 - ratio) * tokens + ratio * (weights @ block)).view(memory.shape)
