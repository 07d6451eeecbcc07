"""Whether a machine computes in bfloat16, and that the recipe does so only there."""

import platform
from pathlib import Path

import pytest

from flash_vstream.synthetic import build as build_module
from flash_vstream.synthetic import recipe as recipe_module
from flash_vstream.synthetic.build import Build
from flash_vstream.synthetic.recipe import SMOKE, small_run
from flash_vstream.train.precision import bfloat16_is_native

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.is_file(), reason="reads the flags of an x86")
def test_an_x86_needs_avx512() -> None:
    """Those with it but without bfloat16 instructions widen to float32 on the way, in time; older ones do not."""
    assert bfloat16_is_native("cpu") == ("avx512bw" in CPUINFO.read_text().split())


@pytest.mark.parametrize("native", [True, False])
def test_the_recipe_trains_in_it_only_where_it_is_native(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (build_module, recipe_module):
        monkeypatch.setattr(module, "bfloat16_is_native", lambda: native)
    assert Build(tmp_path, SMOKE).arguments(tmp_path / "part", 2, 1.0).bf16 is native
    assert small_run(tmp_path / "small", 4, 2, 1e-3, seed=0).bf16 is native
