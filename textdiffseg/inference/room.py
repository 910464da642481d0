"""The room for windows on a device: how many are computed together, and where their sums are kept."""

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeVar

import torch

from plans.geometry import Triple
from plans.plan import Plan
from plans.planning.memory import network_of, prediction_bytes
from plans.planning.scan_memory import sums_bytes
from textdiffseg.inference.windows import SlabSums, WindowInputs
from textdiffseg.resources import free_on, is_out_of_memory

CPU_WINDOWS = 2  # with one, torch's CPU convolutions leave oneDNN and take three times as long
MAX_CPU_BYTES = 2e9  # of the logits and probabilities of these windows; more take one window at a time
MAX_WINDOWS = 8
WINDOWS_SHARE, SUMS_SHARE = 0.5, 0.5  # of a GPU's free memory
Of = TypeVar("Of")


class DeviceRoom:
    """The windows that are computed together on a device, and the place of their sums.

    If the device's memory runs out, fewer windows are computed together. Then sums move to the host.
    """

    def __init__(self, plan: Plan, device: torch.device, windows: int | None = None):
        """`windows`: the number that is computed together; None: what the device allows."""
        self.device, self.windows = device, windows or windows_at_once(plan, device)

    def sums(self, volume: WindowInputs, count: int) -> list[SlabSums]:
        """`count` new sums: on the device if all of them fit there, else on the host."""
        need = count * sums_bytes(volume.classes, volume.tiling.slab_voxels)
        fit = self.device.type == "cuda" and need < SUMS_SHARE * free_on(self.device)
        return [SlabSums(volume, self.device if fit else "cpu") for _ in range(count)]

    def filled(self, windows: int) -> int:
        """The windows that are computed for a group of `windows`.

        On a CPU always the same number, so that a window's result does not depend on its group. On a GPU the next power
        of two: for each other number, the GPU would search its fastest kernels again.
        """
        return self.windows if self.device.type == "cpu" else min(self.windows, 1 << (windows - 1).bit_length())

    def compute(
        self, function: Callable[[tuple[Triple, ...]], Of], starts: tuple[Triple, ...], sums: Sequence[SlabSums]
    ) -> list[Of]:
        """What `function` returns for a group of windows, in parts of fewer windows if the memory runs out.

        If it runs out with single windows, the sums move to the host. After that, `torch.OutOfMemoryError` is raised.
        """
        while True:
            count = self.windows  # another thread may halve it
            try:
                return [function(starts[i : i + count]) for i in range(0, len(starts), count)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                on_device = [slab_sums for slab_sums in sums if slab_sums.total.device.type != "cpu"]
                if self.windows == 1 and not on_device:
                    raise
            torch.cuda.empty_cache()  # outside `except`, which keeps the failed call's tensors alive
            if self.windows > 1:
                self.windows //= 2
            else:
                for slab_sums in on_device:
                    slab_sums.to("cpu")


def windows_at_once(plan: Plan, device: torch.device) -> int:
    """The windows that are computed together: `CPU_WINDOWS` on a CPU; on a GPU what fits, `MAX_WINDOWS` at most.

    On a CPU it is one if patch and labels are large (`MAX_CPU_BYTES`).
    """
    if device.type != "cuda":
        together = 2 * CPU_WINDOWS * 4.0 * (1 + len(plan.labels)) * prod(plan.patch)
        return CPU_WINDOWS if together <= MAX_CPU_BYTES else 1
    network = network_of(plan)
    weights = prediction_bytes(network, plan.patch, "gpu", windows=0)
    window = prediction_bytes(network, plan.patch, "gpu") - weights
    return max(1, min(MAX_WINDOWS, int(WINDOWS_SHARE * free_on(device) / window)))
