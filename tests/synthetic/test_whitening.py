"""The whitened layer: equal variance in all informative directions, little in those of noise."""

import pytest
import torch
from torch import Tensor, nn

from flash_vstream.synthetic.whitening import whiten

SPREADS = torch.tensor([100.0, 10.0, 3.0, 1.0, 1e-3])  # of five directions, the last one noise


def features(n: int = 4000) -> Tensor:
    """[n, 5], of those spreads in directions that are no axes, around a mean far from 0."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    return (torch.randn(n, 5, generator=generator) * SPREADS) @ turn + 50


@pytest.mark.parametrize("bias", [True, False])
def test_directions_get_equal_variance_and_noise_stays_weak(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 5, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.qr(torch.randn(5, 5)).Q)
        given = features()
        whiten(layer, given)
        found = layer(given).double()
    if bias:
        assert found.mean(0).abs().max() < 1e-2
    assert float((found - found.mean(0)).std()) == pytest.approx(1, rel=1e-2)
    spreads = torch.linalg.svdvals(found - found.mean(0))
    # Variances 10^4, 100, 9 and 1 of a mean of 2022 at a floor of 20: only what is above it counts in full.
    floor = 1e-2 * float((SPREADS**2).mean())
    expected = (SPREADS**2 / (SPREADS**2 + floor)).sqrt().double()
    torch.testing.assert_close(spreads / spreads[0], expected / expected[0], rtol=0.1, atol=1e-3)


def test_too_few_features_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 features of 5"):
        whiten(nn.Linear(5, 5), features(4))
