"""Starts the tiny model's projector so that the language model is shown all that the tower tells, not the loudest.

Half of the variance of the tiny tower's features lies in one direction, and what an object's shape or room is in so
little that a model takes long to look anything up by it (docs/log.md has the figures).
"""

import torch
from torch import Tensor, nn

LEAST_VARIANCE = 1e-2  # of the mean: directions below it are noise, and stay faint


@torch.no_grad()
def whiten(layer: nn.Linear, features: Tensor) -> None:
    """Puts the whitening of its inputs into `layer`: its weight then meets inputs of mean 0, alike in all directions.

    The outcome has mean 0 too, the bias seeing to that, and unit variance.

    features: [n, D], such as the layer will be given.

    Raises:
        ValueError: fewer features than they are wide, which say nothing of most directions.
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
