"""Starts the tiny model's projector from whitened features, so that weak directions reach the language model too.

Half of the variance of the tiny tower's features lies in one direction. An object's shape or room takes so little of
the rest that a model learns slowly to look anything up by it (docs/log.md has the figures).
"""

import torch
from torch import Tensor, nn

LEAST_VARIANCE = 1e-2  # relative to the mean variance: directions below it are noise and stay weak


@torch.no_grad()
def whiten(layer: nn.Linear, features: Tensor) -> None:
    """Put the whitening of its inputs into a layer, in place, from samples of them [n, D].

    Its weight then meets inputs of mean 0 with equal variance in all directions; the output has mean 0, by the bias,
    and variance 1. Raises ValueError for n < D, where the variances of some directions are unknown.
    """
    if len(features) < features.shape[1]:
        raise ValueError(f"{len(features)} features of {features.shape[1]} numbers are too few to whiten: give more")
    values = features.double()
    mean = values.mean(dim=0)
    variances, directions = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    scales = (variances + LEAST_VARIANCE * variances.mean()).rsqrt()
    weight = layer.weight.double() @ directions @ torch.diag(scales) @ directions.T
    weight = weight / ((values - mean) @ weight.T).std()
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(-weight @ mean)
