"""A GPU emulated by the CPU, to find operations that mix tensors of two devices.

An emulated tensor says that it lies on cuda:0, and holds a CPU tensor. Each operation first checks, as CUDA does, that
its tensors lie on one device, and then runs on the CPU tensors. Kernels, memory and speed of a GPU are not emulated,
and neither is `torch.compile`.

`emulate` changes torch for the whole process, before any other import of torch. So it runs in a process of its own:

    python -m tests.slow.gpu.emulated LIBRARY ROOT PRESET
"""

import concurrent.futures.thread as threads
import ctypes
import json
import sys
from pathlib import Path
from typing import Any


def emulate(library: str) -> Any:
    """Emulate a GPU from now on, with the compiled `device.cpp`. Returns the mode in which tensors are made on it."""
    ctypes.CDLL(library)
    import torch

    torch.inference_mode = torch.no_grad  # inference tensors cannot be wrapped
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_flatten, tree_map

    aten, gpu = torch.ops.aten, torch.device("cuda", 0)
    copies = {aten.copy_.default, aten._to_copy.default}
    indexing = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # by indices on the CPU, too

    class OnGpu(torch.Tensor):
        """A tensor that says it lies on the GPU. `held` is its CPU tensor."""

        @staticmethod
        def __new__(cls, held, requires_grad=False):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                layout=held.layout,
                device=gpu,
                requires_grad=requires_grad,
            )
            made.held = held
            return made

        def __init__(self, held, requires_grad=False):
            pass

        def __reduce_ex__(self, _):
            return OnGpu, (self.held,)

        def __tensor_flatten__(self):
            return ["held"], None

        @staticmethod
        def __tensor_unflatten__(inner, *_):
            return OnGpu(inner["held"])

        @classmethod
        def __torch_dispatch__(cls, function, _, args=(), kwargs=None):
            return dispatch(function, args, kwargs or {})

    class Emulated(TorchDispatchMode):
        """Sees also operations without an emulated tensor, such as those that make one."""

        def __torch_dispatch__(self, function, _, args=(), kwargs=None):
            return dispatch(function, args, kwargs or {})

    def computed(function, args, kwargs):
        """The result on the CPU. What it cannot do in bfloat16, as average pooling, is done in float32."""
        try:
            return function(*args, **kwargs)
        except NotImplementedError:

            def cast(one, before, after):
                return one.to(after) if isinstance(one, torch.Tensor) and one.dtype is before else one

            half, whole = torch.bfloat16, torch.float32
            wide = tree_map(lambda one: cast(one, half, whole), (args, kwargs))
            return tree_map(lambda one: cast(one, whole, half), function(*wide[0], **wide[1]))

    def dispatch(function, args, kwargs):
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        ours = [one for one in tensors if isinstance(one, OnGpu)]
        others = [one for one in tensors if not isinstance(one, OnGpu) and one.dim() > 0]  # a scalar may lie anywhere
        if ours and others and not (function in copies or (function in indexing and isinstance(args[0], OnGpu))):
            raise RuntimeError(f"{function}: expected all tensors on one device, found cuda:0 and cpu")
        to = kwargs.get("device")
        on_gpu = bool(ours) if to is None else torch.device(to).type == "cuda"
        kwargs |= ({} if to is None else {"device": "cpu"}) | ({"pin_memory": False} if "pin_memory" in kwargs else {})
        held = {id(one.held): one for one in ours}
        args, kwargs = tree_map(lambda one: one.held if isinstance(one, OnGpu) else one, (args, kwargs))
        found = computed(function, args, kwargs)
        if to is not None and not on_gpu and id(found) in held:
            return found.clone()  # a copy on the CPU must not share the memory of the one on the GPU

        def wrapped(one):
            if not isinstance(one, torch.Tensor):
                return one
            return held.get(id(one), OnGpu(one) if on_gpu else one)

        return tree_map(wrapped, found)

    _replace_python(torch, OnGpu, Emulated, gpu)
    _replace_cuda(torch.cuda)
    return Emulated()


def _replace_python(torch, OnGpu, Emulated, gpu) -> None:
    """Replace the functions that do not pass the dispatcher, or that need CUDA before they do."""
    tensor, copy = torch.Tensor, torch.ops.aten._to_copy.default
    to_list, to_numpy, run_item = tensor.tolist, tensor.numpy, threads._WorkItem.run

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        again = kwargs.pop("copy", False)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        device = self.device if device is None else gpu if device.type == "cuda" else device
        dtype = dtype or self.dtype
        fits = layout in (None, torch.preserve_format) or self.is_contiguous(memory_format=layout)
        if (device, dtype) == (self.device, self.dtype) and fits and not again:
            return self
        return copy(self, dtype=dtype, device=device, non_blocking=non_blocking, memory_format=layout)

    def numpy(self, **kwargs):
        if isinstance(self, OnGpu):
            raise TypeError("a tensor on cuda:0 cannot be a numpy array; copy it to the CPU first")
        return to_numpy(self, **kwargs)

    def made(make):
        def on_device(*args, device=None, **kwargs):
            if device is None and args and isinstance(args[0], OnGpu):
                return args[0]
            return make(*args, **kwargs) if device is None else to(make(*args, **kwargs), device)

        return on_device

    class Generator(torch.Generator):
        def __new__(cls, device=None):
            return super().__new__(cls)

    def in_mode(self, *args):
        with Emulated():  # other threads are not in the mode of the one that started them
            run_item(self, *args)

    tensor.to, tensor.numpy = to, numpy
    tensor.cpu, tensor.pin_memory = lambda self: to(self, "cpu"), lambda self: self
    tensor.tolist = lambda self: to_list(self.held.detach() if isinstance(self, OnGpu) else self)
    torch.tensor, torch.as_tensor, torch.Generator = made(torch.tensor), made(torch.as_tensor), Generator
    threads._WorkItem.run = in_mode


def _replace_cuda(cuda) -> None:
    """Let `torch.cuda` describe a GPU of 140 GB that multiplies bfloat16."""
    cuda._lazy_init = cuda.reset_peak_memory_stats = cuda.empty_cache = lambda *_: None
    cuda.is_available = cuda.is_bf16_supported = cuda._is_in_bad_fork = lambda *_, **__: True
    cuda.device_count, cuda.current_device, cuda.get_device_name = lambda: 1, lambda: 0, lambda *_: "emulated"
    cuda.get_device_capability, cuda.mem_get_info = lambda *_: (9, 0), lambda *_: (100e9, 140e9)
    cuda.memory_reserved = cuda.memory_allocated = cuda.max_memory_allocated = lambda *_: 10**9


def main(library: str, root: str, preset: str) -> dict[str, Any]:
    """Train fold 0 of a planned data set and predict a scan on the emulated GPU. Returns what came out."""
    mode = emulate(library)
    import torch

    import textdiffseg as tds
    from textdiffseg.training import setup

    setup.VALIDATION_PATCHES = 2
    options = tds.TrainingOptions(device="cuda", epochs=2, compile=False)
    with mode:
        mixed = None
        try:
            torch.ones(2, device="cuda") + torch.ones(2)
        except RuntimeError as error:
            mixed = str(error)
        tds.train("901", 0, root=root, preset=preset, options=options)
        asked = {"alternatives": 2, "uncertainty": True} if preset == "default" else {}
        scan = next((Path(root) / "raw/Dataset901_Tiny/imagesTr").iterdir())
        wanted = tds.SegmentOptions(probabilities=True, **asked)
        done = tds.predict(scan, Path(root) / "out", root=root, preset=preset, device="cuda", options=wanted)
    return {"mixed": mixed, "failures": list(map(str, done.failures))}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
