"""Which arithmetic the machine at hand has."""

import torch


def bfloat16_is_native(device: str | torch.device | None = None) -> bool:
    """Whether it computes in bfloat16 at all: a processor without (x86 before AVX-512) emulates it, 70 times slower.

    device: the one to compute on; None: the GPU where there is one, else the processor.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for it.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
