"""Which arithmetic this machine supports natively."""

import torch


def bfloat16_is_native(device: str | torch.device | None = None) -> bool:
    """Whether a device (None: the GPU if there is one, else the CPU) computes in bfloat16.

    A CPU without it (x86 before AVX-512) emulates it, 70 times slower.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for it.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
