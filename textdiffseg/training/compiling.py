"""torch.compile of the network's convolutional modules, on a GPU. If it fails, training continues without it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from textdiffseg.resources import is_out_of_memory

Result = TypeVar("Result")
MAX_REASON_CHARACTERS = 200  # of an error in the message

# By default inductor stores convolutions channels last. In 3D that ran several times slower on an H100.
OPTIONS = {"layout_optimization": False}
SETTINGS = {"dynamic": False, "options": OPTIONS}
GRAPHS = {"dynamic": False, "options": OPTIONS | {"triton.cudagraphs": True}}  # only for benchmarks/speed.py


@dataclass
class Compiled:
    """The state of compilation in a run. `active` becomes False at the first failure and stays False."""

    active: bool  # modules are compiled, and work
    on_gpu: bool
    report: Callable[[str], None]
    compiled: bool = False  # modules are compiled, and may not work

    @property
    def one_size(self) -> bool:
        """Whether inputs must have the same shapes in all batches.

        For each new shape, a compiler compiles again, and a GPU searches its fastest kernels again.
        """
        return self.active or self.on_gpu

    def run(self, work: Callable[[], Result], eager: bool = False) -> Result:
        """The result of `work()`. If it fails with compiled modules, it runs again without them.

        `work` must therefore allow a second call after an error. An error of the second call is raised. With `eager` it
        runs without compiled modules.
        """
        if self.active and not eager:
            try:
                return work()
            except Exception as error:  # dynamo, inductor, Triton, C compilers and drivers raise many types
                if is_out_of_memory(error):  # without compilation it would not need less memory
                    raise
                self.give_up(error)
        if not self.compiled:
            return work()
        with torch.compiler.set_stance("force_eager"):
            return work()

    def give_up(self, error: Exception) -> None:
        """Run all modules without compilation from now on, and report the error."""
        self.active = False
        reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
        self.report(
            f"torch.compile failed. Training continues without it, more slowly ({type(error).__name__}: {reason})."
        )


def compile_modules(
    modules: tuple[nn.Module, ...],
    device: torch.device,
    wanted: bool,
    report: Callable[[str], None],
    graphs: bool = False,
) -> Compiled:
    """Compile modules in place if `wanted`. Weight names, copies and checkpoints do not change.

    The compilation itself happens in the first step. With `graphs`, CUDA graphs record the kernel launches. Each step
    must then begin with `torch.compiler.cudagraph_mark_step_begin()`.
    """
    compiled = Compiled(active=wanted, on_gpu=device.type == "cuda", report=report, compiled=wanted)
    if wanted:
        torch.compiler.reset()  # compilations of an earlier run in this process count towards dynamo's limit
        try:
            for module in modules:
                module.compile(**(GRAPHS if graphs else SETTINGS))
        except Exception as error:
            compiled.give_up(error)
    return compiled
