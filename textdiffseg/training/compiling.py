"""torch.compile of the network's heavy parts, where it pays: on a GPU. What it cannot do is done without it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

Result = TypeVar("Result")
LONGEST_REASON = 200  # letters of an error that are told

# Inductor would lay convolutions out channels last, where those in 3D ran several times slower on an H100.
OPTIONS = {"layout_optimization": False}
SETTINGS = {"dynamic": False, "options": OPTIONS}
GRAPHS = {"dynamic": False, "options": OPTIONS | {"triton.cudagraphs": True}}  # not measured: for benchmarks/speed.py


@dataclass
class Compiled:
    """How the network of a run is run; `active` falls at the first failure and stays down."""

    active: bool  # parts are compiled
    on_gpu: bool
    report: Callable[[str], None]

    @property
    def one_size(self) -> bool:
        """Whether inputs come in shapes that do not change: at each new one a compiler compiles anew, and a GPU looks
        for its fastest kernels."""
        return self.active or self.on_gpu

    def run(self, work: Callable[[], Result]) -> Result:
        """`work()`, again without compiled parts if it fails with them; it must not mind being broken off.

        What fails without them, too, raises its own error.
        """
        if self.active:
            try:
                return work()
            except torch.OutOfMemoryError:  # as it is written it would take no less
                raise
            except Exception as error:  # of dynamo, of inductor, of Triton, of a C compiler, of a driver: no list ends
                self.give_up(error)
        return work()

    def give_up(self, error: Exception) -> None:
        """From now on every part runs as it is written."""
        self.active = False
        torch.compiler.set_stance("force_eager")
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        self.report(f"torch.compile failed and is left out, which is slower ({type(error).__name__}: {reason}).")


def compile_parts(
    parts: tuple[nn.Module, ...],
    device: torch.device,
    wanted: bool,
    report: Callable[[str], None],
    graphs: bool = False,
) -> Compiled:
    """Compile the parts in place, where that is wanted: names of weights, copies and checkpoints stay as they are.

    Nothing is compiled before the first step. With `graphs`, CUDA graphs record what is launched, and each step has to
    begin with `torch.compiler.cudagraph_mark_step_begin()`.
    """
    compiled = Compiled(active=wanted, on_gpu=device.type == "cuda", report=report)
    if wanted:
        torch.compiler.reset()  # what another run of this process has compiled counts towards dynamo's limit
        torch.compiler.set_stance("default")
        try:
            for part in parts:
                part.compile(**(GRAPHS if graphs else SETTINGS))
        except Exception as error:
            compiled.give_up(error)
    return compiled
