"""`Budget`: what one training iteration may cost, and the choices that follow from the device alone."""

from typing import Literal

from pydantic import Field

from plans.memory import Device
from plans.plan import TrainingPlan
from plans.records import Record

GMACS_PER_CORE = 12.0  # forward billions of multiply-accumulates a core and training iteration; half a second to one


class Budget(Record):
    """Memory, and on the CPU also work, that one training iteration may take."""

    device: Device
    memory_gb: float = Field(gt=0)
    gmacs_per_iteration: float | None = Field(None, gt=0)  # forward passes of the whole batch


def gpu_budget(memory_gb: float = 8.0) -> Budget:
    """A GPU with so much memory for training."""
    return Budget(device="gpu", memory_gb=memory_gb)


def cpu_budget(cores: int, memory_gb: float | None = None) -> Budget:
    """No GPU: 2 GB a core (at most 16) unless said otherwise, and an iteration of half a second to one."""
    memory_gb = min(2.0 * max(cores, 1), 16.0) if memory_gb is None else memory_gb
    return Budget(device="cpu", memory_gb=memory_gb, gmacs_per_iteration=GMACS_PER_CORE * max(cores, 1))


class DeviceRules(Record):
    """What differs between training on a GPU and on a CPU."""

    first_patch_voxels: int  # the search for a patch starts from a cube of so many voxels
    small_patch_voxels: int  # from here on the network becomes narrower before the patch becomes smaller
    widths: tuple[int, ...]  # of the first stage, from wide to narrow
    usual_width: int  # the patch becomes smaller before the network becomes narrower than this
    widest_factor: int  # the widest stage against the first
    blocks: tuple[int, ...]  # residual blocks a stage; the last counts for all further stages
    largest_batch: int | None


RULES: dict[Literal["gpu", "cpu"], DeviceRules] = {
    "gpu": DeviceRules(
        first_patch_voxels=256**3,  # nnU-Net's
        small_patch_voxels=48**3,
        widths=(32, 16, 8),
        usual_width=32,
        widest_factor=10,
        blocks=(1, 2, 2, 4),
        largest_batch=None,
    ),
    "cpu": DeviceRules(
        first_patch_voxels=64**3,
        small_patch_voxels=50_000,
        widths=(32, 16, 8),
        usual_width=16,
        widest_factor=6,
        blocks=(1, 1, 2, 4),
        largest_batch=4,
    ),
}


def training_plan(device: Device) -> TrainingPlan:
    """Optimisation settings; a CPU makes fewer iterations, hence larger steps and shorter averages.

    After as many iterations as a GPU makes in minutes, models of a CPU ended alike with its own learning rate and with
    the GPU's (docs/method.md); on a GPU nothing was measured with Muon.
    """
    shared = {"weight_decay": 1e-2, "warmup": 0.05, "foreground_share": 0.33}
    if device == "gpu":
        return TrainingPlan(epochs=200, iterations_per_epoch=250, learning_rate=5e-4, ema=0.999, **shared)
    return TrainingPlan(epochs=40, iterations_per_epoch=50, learning_rate=3e-3, ema=0.99, **shared)
