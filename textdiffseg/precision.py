"""Which kernels train: mixed precision on CUDA, and on CPUs that multiply bfloat16 in hardware.

Measured on one thread of an AVX512-BF16 processor, batch 2 of 40x56x40: 0.74 s an iteration against 1.35 s in float32.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def choose_cuda_kernels() -> None:
    """Set the whole process: cuDNN looks for its fastest convolutions once, as patches have one size (as in nnU-Net).

    It leaves attention to others: with a mask its gradients can be NaN (pytorch issue 196678), and it plans anew for
    each number of tokens.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """`choose_cuda_kernels` for a while; afterwards the process is as it was."""
    before = torch.backends.cudnn.benchmark, torch.backends.cuda.cudnn_sdp_enabled()
    choose_cuda_kernels()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.backends.cuda.enable_cudnn_sdp(before[1])


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 for convolutions and matrix products where the hardware has it, else a context that does nothing.

    Without autocast's cache of weights: in older torch, one that the recycled estimate fills without gradients gives
    the denoiser none afterwards (pytorch issue 112583).
    """
    if device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16()):
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware, and oneDNN's faulty kernels for AMX are switched off.

    Those compute wrong gradients of convolutions on thin grids, or crash (seen in torch 2.13). The commands set
    ONEDNN_MAX_CPU_ISA; a program that does not gets float32 on such a CPU.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 cannot tell
    if capabilities.get("amx_bf16", False) and "AMX" in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX").upper():
        return False
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
