"""What a vision tower gives: hidden states, of which the patches of a frame are its features."""

from __future__ import annotations

from torch import Tensor


def drop_prefix_tokens(states: Tensor, grid: int) -> Tensor:
    """Hidden states [T, tokens, D] -> those of the grid x grid patches [T, P, D].

    The tokens before the patches are CLIP's and DINOv2's class token and DINOv2's registers; SigLIP has none.
    """
    n_prefix = states.shape[1] - grid * grid
    if n_prefix < 0:
        raise ValueError(
            f"the vision tower gives {states.shape[1]} tokens a frame, too few for {grid} x {grid} patches:"
            " correct vision_feature_size in the configuration"
        )
    return states[:, n_prefix:]
