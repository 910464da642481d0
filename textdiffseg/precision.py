"""Mixed precision and the choice of CUDA kernels. bfloat16 is used on GPUs and CPUs that multiply it in hardware.

Measured on one thread of an AVX512-BF16 processor, batch 2 of 40 x 56 x 40 voxels: 0.74 s per iteration, 1.35 s in
float32.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from textdiffseg.shared_setting import SharedSetting

CHOSEN_KERNELS = (True, False)  # whether cuDNN searches its fastest convolutions, and whether it computes attention


def choose_cuda_kernels() -> None:
    """Configure cuDNN for the whole process.

    It searches its fastest convolutions once, as all patches have one size (as in nnU-Net). It does not compute
    attention: with a mask its gradients can be NaN (pytorch issue 196678), and every new number of tokens costs time.
    """
    _set_kernels(CHOSEN_KERNELS)


def _kernels() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cuda.cudnn_sdp_enabled()


def _set_kernels(settings: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark = settings[0]
    torch.backends.cuda.enable_cudnn_sdp(settings[1])


_SHARED = SharedSetting(_kernels, _set_kernels)


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Apply `choose_cuda_kernels` inside the context, and restore the process's settings afterwards."""
    with _SHARED.set_to(CHOSEN_KERNELS):
        yield


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context with bfloat16 convolutions and matrix products if the hardware has them, else one that does nothing.

    Autocast's cache of weights is off. In older torch a pass without gradients fills it, and a later pass with the same
    weights then gets no gradients (pytorch issue 112583).
    """
    if gpu_has_bfloat16(device) or (device.type == "cpu" and _cpu_has_bfloat16()):
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a device is a GPU that multiplies bfloat16 in hardware. Before Ampere it is emulated, and very slow."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def float32_products(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products of float32 stay float32, also within `autocast`."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware and oneDNN's faulty AMX kernels are off.

    The AMX kernels compute wrong gradients of convolutions on thin grids, or crash (seen in torch 2.13). The commands
    set ONEDNN_MAX_CPU_ISA to avoid them. A program that does not set it gets float32 on such a CPU.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in torch 2.8
    if capabilities.get("amx_bf16", False) and "AMX" in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX").upper():
        return False
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
