"""Plans that fit a measured training step: `refit` makes a plan smaller, `larger_patches` its patch larger.

The network does not change, so all folds can share its shape.
"""

from collections.abc import Iterable, Iterator
from math import isclose, prod

from plans.errors import UserError
from plans.geometry import Triple, lengthened
from plans.plan import Decision, Plan
from plans.planning import memory, rules
from plans.planning.budget import RULES, Budget, planned_budget
from plans.planning.layers import NetworkShape
from plans.planning.memory import GB
from plans.planning.rules import sizes_text
from plans.planning.scan_memory import case_ram_bytes
from plans.planning.search import MIN_BATCH, Draft


def refit(plan: Plan, budget: Budget) -> Plan:
    """A smaller plan that fits `budget`: the batch is reduced first, then the patch.

    Raises `UserError` if no smaller plan is possible.
    """
    network = memory.network_of(plan)
    stride, batch, patch = plan.total_stride, plan.batch, plan.patch
    while (batch, patch) == (plan.batch, plan.patch) or not Draft(patch, network, batch).fits(budget):
        longer = [axis for axis in range(3) if patch[axis] > 2 * stride[axis]]
        if batch > MIN_BATCH:
            batch -= 1
        elif longer:
            axis = max(longer, key=lambda axis: patch[axis] / plan.median_shape[axis])
            patch = lengthened(patch, axis, -stride[axis])
        elif batch > 1:
            batch = 1
        else:
            raise UserError(
                f"The plan does not fit {budget.memory_gb:g} GB even with one patch of {sizes_text(patch)} voxels. "
                "Free memory, or plan again for less: --memory-gb (of a GPU), or fewer cores (on a CPU: "
                "taskset -c 0 tds_plan_and_preprocess ...)."
            )
    used = memory.training_bytes(network, patch, batch, budget.device) / GB
    reason = (
        f"one training step did not fit: batch {plan.batch} to {batch}, patch {sizes_text(plan.patch)} to "
        f"{sizes_text(patch)}, now about {used:.2g} GB of {budget.memory_gb:.3g}"
    )
    decision = Decision(name="refitted", value=f"{batch} of {sizes_text(patch)}", reason=reason)
    return _changed(plan, patch, batch, decision, {"training_gb": used, "budget_gb": budget.memory_gb})


def larger_patches(plan: Plan, measured_gb: float, limit_gb: float) -> Iterator[Plan]:
    """The plan with larger patches, largest first, whose training step is expected to take at most `limit_gb`.

    The expectation scales the activations of a measured step, which takes `measured_gb`. A patch stays within the
    limits of the search: the first patch, the work on a CPU, attention where it is affordable, and the batch times
    the patch unless the batch is the smallest. There is none for a plan whose patch or batch was edited.
    """
    network, device = memory.network_of(plan), plan.device
    estimate = memory.training_bytes(network, plan.patch, plan.batch, device) / GB
    if not isclose(estimate, plan.memory.training_gb, rel_tol=1e-6):
        return
    weights = memory.weight_bytes(network) / GB
    activations = memory.activations(network, plan.patch, plan.batch, device)
    for patch in reversed([*_growing(plan, network)]):
        batch = max(min(plan.batch, MIN_BATCH), plan.batch * prod(plan.patch) // prod(patch))
        share = memory.activations(network, patch, batch, device) / activations
        expected = weights + max(0.0, measured_gb - weights) * share
        if expected <= limit_gb and _within_limits(plan, network, patch, batch):
            reason = (
                f"one training step took {measured_gb:.3g} GB of {plan.memory.budget_gb:.3g}: batch {plan.batch} to "
                f"{batch}, patch {sizes_text(plan.patch)} to {sizes_text(patch)}, now about {expected:.3g} GB"
            )
            decision = Decision(name="grown", value=f"{batch} of {sizes_text(patch)}", reason=reason)
            yield _changed(plan, patch, batch, decision, {"training_gb": expected})


def with_host_memory(plan: Plan, shapes: Iterable[tuple[Triple, Triple]]) -> Plan:
    """The plan with the host memory of its own patch, for the largest case.

    Args:
        plan: whose patch may have changed.
        shapes: of each case, in voxels (D, H, W): on the plan's grid and on the file's grid.
    """
    channels, labels = len(plan.channels), len(plan.labels)
    bytes_of_cases = [case_ram_bytes(channels, labels, plan.patch, *of_case) for of_case in shapes]
    estimate = {"ram_gb": max(bytes_of_cases) / GB} if bytes_of_cases else {}
    return plan.model_copy(update={"memory": plan.memory.model_copy(update=estimate)})


def _growing(plan: Plan, network: NetworkShape) -> Iterator[Triple]:
    """Larger and larger patches: the axis that is shortest against the median case grows by one stride."""
    patch, stride = plan.patch, plan.total_stride
    if plan.paper:
        most = rules.paper_patch(plan.spacing, plan.median_shape)
    else:
        most = rules.first_patch(plan.spacing, plan.median_shape, RULES[plan.device].first_patch_voxels)
    most = rules.pad_to(most, stride)
    while shorter := [axis for axis in range(3) if patch[axis] + stride[axis] <= most[axis]]:
        axis = min(shorter, key=lambda axis: patch[axis] / plan.median_shape[axis])
        patch = lengthened(patch, axis, stride[axis])
        yield patch


def _within_limits(plan: Plan, network: NetworkShape, patch: Triple, batch: int) -> bool:
    """Whether a patch stays within the work limit of a CPU, and attention within its own."""
    limit = planned_budget(plan).gmacs_per_iteration
    if limit is not None and batch * memory.macs(network, patch) > limit * 1e9:
        return False
    attending = [index for index, stage in enumerate(plan.stages) if stage.attention]
    return bool(plan.paper) or all(
        rules.attends(patch, plan.stride_at(index), plan.stages[index].width) for index in attending
    )


def _changed(plan: Plan, patch: Triple, batch: int, decision: Decision, used: dict[str, float]) -> Plan:
    """The plan with another patch and batch, and all numbers that follow from them."""
    network = memory.network_of(plan)
    estimate = {"prediction_gb": memory.prediction_bytes(network, patch, plan.device) / GB, **used}
    changes = {
        "batch": batch,
        "patch": patch,
        "memory": plan.memory.model_copy(update=estimate),
        "reasons": (*plan.reasons, decision),
    }
    if plan.diffusion:
        positions = rules.grid_positions(patch, plan.latent_stride)
        least = rules.min_log_snr(network.latent_channels, positions)
        changes["diffusion"] = plan.diffusion.model_copy(update={"min_log_snr": least})
    return Plan.model_validate(plan.model_dump() | changes)
