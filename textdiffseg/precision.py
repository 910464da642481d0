"""Mixed precision and the choice of CUDA kernels. bfloat16 is used on GPUs and CPUs that multiply it in hardware.

Measured on one thread of an AVX512-BF16 processor, batch 2 of 40 x 56 x 40 voxels: 0.74 s per iteration, 1.35 s in
float32.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from textdiffseg.shared_setting import SharedSetting

CONVOLUTIONS = (torch.conv3d, torch.conv_transpose3d)
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
    if gpu_has_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return _cpu_autocast() if device.type == "cpu" and _cpu_has_bfloat16() else nullcontext()


@contextmanager
def _cpu_autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), _ThinGridsInFloat32():
        yield


class _ThinGridsInFloat32(TorchFunctionMode):
    """A context in which `autocast` computes 3D convolutions on thin grids in float32.

    oneDNN's bfloat16 kernels compute wrong weight gradients there, or write beyond their memory (torch 2.13, AVX512).
    The result is bfloat16, as that of the other convolutions.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in CONVOLUTIONS or not torch.is_autocast_enabled("cpu") or not _is_thin(*args, **kwargs):
            return func(*args, **kwargs)
        with float32_products(torch.device("cpu")):
            return func(*map(_float32, args), **{name: _float32(value) for name, value in kwargs.items()}).bfloat16()


def _float32(argument: object) -> object:
    return argument.float() if isinstance(argument, Tensor) else argument


def _is_thin(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, *_: object, **__: object
) -> bool:
    """Whether a convolution of an input (B, C, D, H, W) has an axis that is not longer than its kernel and its stride.

    Of random convolutions in bfloat16 on such grids, a tenth had wrong gradients; of 17,000 on other grids, none.
    """
    strides = (stride,) * 3 if isinstance(stride, int) else stride
    steps = map(max, weight.shape[2:], strides)
    return any(1 < step >= size for step, size in zip(steps, input.shape[2:], strict=True))


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
