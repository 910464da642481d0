"""`Budget`: the limits of one training iteration, and the planning choices that depend on the device."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from plans.errors import UserError
from plans.plan import ChannelPlan, Plan, TrainingPlan
from plans.planning.memory import GB, Device, network_of, training_bytes
from plans.records import Record

GB_PER_CORE, MAX_CPU_GB = 2.0, 16.0  # of a CPU's budget
GMACS_PER_CORE = 5.0  # billions of forward multiply-accumulates per core and iteration: about half a second
MAX_BUDGET_FACTOR = 8.0  # up to this factor above the budget, training measures one step and refits the plan


class Budget(Record):
    """The memory, and on a CPU also the work, that one training iteration may take."""

    device: Device
    memory_gb: float = Field(gt=0)
    gmacs_per_iteration: float | None = Field(None, gt=0)  # forward passes of the whole batch


def gpu_budget(memory_gb: float = 8.0) -> Budget:
    """The budget of a GPU with `memory_gb` GB for training."""
    return Budget(device="gpu", memory_gb=memory_gb)


def cpu_budget(cores: int, memory_gb: float | None = None) -> Budget:
    """The budget of a CPU: by default 2 GB per core, at most 16 GB. An iteration takes half a second to a second."""
    memory_gb = min(GB_PER_CORE * max(cores, 1), MAX_CPU_GB) if memory_gb is None else memory_gb
    return Budget(device="cpu", memory_gb=memory_gb, gmacs_per_iteration=GMACS_PER_CORE * max(cores, 1))


def planned_budget(plan: Plan) -> Budget:
    """The budget that a plan was made for. With over 8 cores of a CPU, its work limit counts 8."""
    if plan.device == "gpu":
        return gpu_budget(plan.memory.budget_gb)
    return cpu_budget(max(1, int(plan.memory.budget_gb / GB_PER_CORE)), plan.memory.budget_gb)


def refuse_beyond_budget(plan: Plan, source: str) -> None:
    """Raise `UserError` if an edited plan needs more than `MAX_BUDGET_FACTOR` times its budget.

    A single step of such a plan could stop the machine. `source` names the plan in the message.
    """
    need = training_bytes(network_of(plan), plan.patch, plan.batch, plan.device) / GB
    if need > MAX_BUDGET_FACTOR * plan.memory.budget_gb:
        raise UserError(
            f"{source}: batch {plan.batch} of patch {plan.patch} needs about {need:.0f} GB, but the budget is "
            f"{plan.memory.budget_gb:g} GB. Reduce patch, batch or widths, or plan again with --memory-gb."
        )


class DeviceRules(Record):
    """The planning rules that differ between a GPU and a CPU."""

    first_patch_voxels: int  # size of the cube that the search for a patch starts with
    small_patch_voxels: int  # below this size, the network becomes narrower first
    widths: tuple[int, ...]  # channels of the first stage, from wide to narrow
    usual_width: int  # below this width, the patch becomes smaller first
    widest_factor: int  # width of the widest stage relative to the first
    blocks: tuple[int, ...]  # residual blocks per stage on the way down; the last number is for all further stages
    up: tuple[Literal[0, 1, 2], ...]  # convolutions per stage on the way up, likewise
    largest_batch: int | None
    finer_steps: bool  # patches are shortened by the stride of the shorter one (nnU-Net), not by their own

    def blocks_at(self, stage: int) -> int:
        """The residual blocks of a stage on the way down."""
        return self.blocks[min(stage, len(self.blocks) - 1)]

    def up_at(self, stage: int) -> Literal[0, 1, 2]:
        """The convolutions of a stage on the way up."""
        return self.up[min(stage, len(self.up) - 1)]


RULES: dict[Literal["gpu", "cpu"], DeviceRules] = {
    "gpu": DeviceRules(
        first_patch_voxels=256**3,  # nnU-Net's
        small_patch_voxels=48**3,
        widths=(32, 16, 8),
        usual_width=32,
        widest_factor=10,
        blocks=(0, 0, 1, 1, 2),
        up=(1, 2),
        largest_batch=None,
        finer_steps=True,
    ),
    "cpu": DeviceRules(
        first_patch_voxels=64**3,
        small_patch_voxels=50_000,
        widths=(32, 16, 8),
        usual_width=16,
        widest_factor=6,
        blocks=(0, 0, 1, 3),
        up=(1, 1, 2),
        largest_batch=4,
        finer_steps=False,  # not measured
    ),
}


def training_plan(device: Device, channels: Sequence[ChannelPlan]) -> TrainingPlan:
    """The optimisation settings for a device, and the augmentation that suits the channels.

    A CPU does fewer iterations. So its learning rate is higher, and its moving average is shorter. With the number of
    iterations that a GPU does in minutes, both learning rates gave equal models (docs/history.md). This was measured on
    a CPU. Muon was not measured on a GPU.

    The unit of `strong` augmentation is a standard deviation of 1, which these normalisations give, nearly or exactly.
    """
    augmentation = "strong" if all(channel.scheme in ("ct", "zscore") for channel in channels) else "full"
    shared = {"weight_decay": 1e-2, "warmup": 0.05, "foreground_share": 0.33, "augmentation": augmentation}
    if device == "gpu":
        return TrainingPlan(epochs=200, iterations_per_epoch=250, learning_rate=5e-4, ema=0.999, **shared)
    return TrainingPlan(epochs=40, iterations_per_epoch=50, learning_rate=3e-3, ema=0.99, **shared)
