"""The search for patch, network and batch within a budget, and nnU-Net's low-resolution plan."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod

from plans.errors import UserError
from plans.geometry import Millimetres, Triple, lengthened, resampled_shape
from plans.network_plan import Stage
from plans.plan import LowResolutionPlan
from plans.planning import memory, rules
from plans.planning.budget import RULES, Budget, DeviceRules
from plans.planning.layers import NetworkShape
from plans.planning.memory import GB
from plans.planning.rules import sizes_text
from plans.planning.spacing import MIN_PATCH_SHARE, coarser

MIN_BATCH = 2  # nnU-Net
MAX_DATA_SHARE = 0.05  # nnU-Net: of the data set's voxels in one batch
MIN_VOXEL_FACTOR = 2.0  # nnU-Net: a low-resolution plan must reduce the voxels by this factor


@dataclass(frozen=True)
class Facts:
    """The inputs of the search: measurements of the data set, and the budget."""

    cases: int
    thickness: dict[str, float]  # per label name, in mm: the 10th percentile over cases
    spacing: Millimetres
    median_shape: Triple
    channels: int
    labels: int
    text_width: int
    budget: Budget
    paper: bool = False  # whether to use the publication's patch and network

    @property
    def rules(self) -> DeviceRules:
        """The rules that depend on the device."""
        return RULES[self.budget.device]


@dataclass(frozen=True)
class Draft:
    """A patch with its network and its batch."""

    patch: Triple
    network: NetworkShape
    batch: int = MIN_BATCH
    reasons: Mapping[str, str] = field(default_factory=dict)  # by row of the table of reasons

    def fits(self, budget: Budget) -> bool:
        """Whether one training iteration stays within the budget."""
        limit = budget.gmacs_per_iteration
        if limit is not None and self.batch * memory.macs(self.network, self.patch) > limit * 1e9:
            return False
        used = memory.training_bytes(self.network, self.patch, self.batch, budget.device)
        return used <= budget.memory_gb * GB


def search(facts: Facts) -> Draft:
    """The first of `candidates` that fits the budget, with its reasons. Raises `UserError` if no candidate fits."""
    largest = None
    for candidate in candidates(facts):
        largest = largest or candidate.patch
        if candidate.fits(facts.budget):
            return replace(candidate, reasons={**candidate.reasons, "patch": _why_patch(facts, largest, candidate)})
    network, patch = candidate.network, candidate.patch
    used = ceil(100 * memory.training_bytes(network, patch, MIN_BATCH, facts.budget.device) / GB) / 100
    work = MIN_BATCH * memory.macs(network, patch) / 1e9
    raise UserError(
        f"The budget of {facts.budget.memory_gb:g} GB is too small: the smallest network (patch "
        f"{sizes_text(patch)}, width {network.stages[0].width}, batch {MIN_BATCH}) needs {used:g} GB "
        f"and {work:.2g} billion multiplications per iteration. "
        + ("Give more with --memory-gb." if facts.budget.device == "gpu" else "Plan on a machine with more cores.")
    )


def _why_patch(facts: Facts, largest: Triple, chosen: Draft) -> str:
    """The reason for the size of the patch. `largest` is the first candidate."""
    case, cube = sizes_text(facts.median_shape), facts.rules.first_patch_voxels
    padded = f"; edges are divisible by the strides {sizes_text(chosen.network.stride)}"
    if chosen.patch != largest:
        shortened = f"shortened from {sizes_text(largest)} until one iteration at batch {MIN_BATCH} fits the budget"
        return f"{shortened}, always along the axis that is longest against the median case ({case} voxels){padded}"
    if all(edge >= size for edge, size in zip(chosen.patch, facts.median_shape, strict=True)):
        return f"a whole median case ({case} voxels at that spacing){padded}"
    return f"a cube in mm of {cube} voxels, the maximum on this device, cut to a median case ({case} voxels){padded}"


def candidates(facts: Facts) -> Iterator[Draft]:
    """Drafts in order of decreasing cost.

    First the network becomes narrower down to the usual width, then the patch becomes smaller down to a small one.
    Then the network becomes narrower again, then the patch smaller. Patches shrink in nnU-Net's order: the axis that
    is longest relative to the median shape is shortened.
    """
    if facts.paper:
        yield from _paper_candidates(facts)
        return
    device = facts.rules
    size = rules.first_patch(facts.spacing, facts.median_shape, device.first_patch_voxels)
    for width in (width for width in device.widths if width >= device.usual_width):
        current = draft(facts, size, width)
        yield current
    while prod(current.patch) > device.small_patch_voxels and (smaller := shorten(facts, current)):
        current = smaller
        yield current
    for width in (width for width in device.widths if width < device.usual_width):
        current = draft(facts, current.patch, width)
        yield current
    while smaller := shorten(facts, current):
        current = smaller
        yield current


def _paper_candidates(facts: Facts) -> Iterator[Draft]:
    """Drafts of the publication's model. It fixes the patch, so the network becomes narrower first, then the patch."""
    size = rules.paper_patch(facts.spacing, facts.median_shape)
    for width in facts.rules.widths:
        current = draft(facts, size, width)
        yield current
    while smaller := shorten(facts, current):
        current = smaller
        yield current


def draft(facts: Facts, size: Triple, width: int) -> Draft:
    """The patch (`size`, padded to the strides) and its network, whose first stage has `width` channels."""
    steps, device = rules.ladder(facts.spacing, size), facts.rules
    if facts.paper:
        return _paper_draft(facts, steps, size, width)
    patch = rules.pad_to(size, steps.total())
    level, why_level = rules.fusion_level(facts.thickness, facts.spacing, steps)
    channels, why_channels = rules.latent_channels(facts.labels)
    stages = tuple(
        Stage(
            stride=steps.strides[index],
            kernel=steps.kernels[index],
            width=stage_width,
            blocks=device.blocks_at(index),
            up=device.up_at(index),
            attention=index >= level and rules.attends(patch, steps.total(index), stage_width),
        )
        for index, stage_width in enumerate(_widths(facts, steps, width))
    )
    network = _network(facts, stages, level, rules.LATENT_LEVEL, channels)
    return Draft(patch, network, reasons={"fusion stride": why_level, "latent channels": why_channels})


def _paper_draft(facts: Facts, steps: rules.Ladder, size: Triple, width: int) -> Draft:
    """`draft` of the publication's network: few stages, and a latent of one channel.

    Stages have at least one residual block on the way down. From the stage before the fusion on they have attention.
    """
    level = rules.paper_level(steps)
    steps = steps.down_to(min(level + rules.PAPER_COARSER_STAGES, len(steps.strides) - 1))
    stages = tuple(
        Stage(
            stride=steps.strides[index],
            kernel=steps.kernels[index],
            width=stage_width,
            blocks=max(1, facts.rules.blocks_at(index)),
            up=2,
            attention=index >= max(1, level - 1),
        )
        for index, stage_width in enumerate(_widths(facts, steps, width))
    )
    network = _network(facts, stages, level, latent_level=level, latent_channels=1)
    return Draft(rules.pad_to(size, steps.total()), network, reasons={"fusion stride": "", "latent channels": ""})


def _widths(facts: Facts, steps: rules.Ladder, width: int) -> list[int]:
    """The channels of each stage: twice those of the stage before, up to the device's maximum."""
    return [min(width * 2**index, width * facts.rules.widest_factor) for index in range(len(steps.strides))]


def _network(
    facts: Facts, stages: tuple[Stage, ...], level: int, latent_level: int, latent_channels: int
) -> NetworkShape:
    return NetworkShape(
        stages=stages,
        fusion_level=level,
        latent_level=latent_level,
        latent_channels=latent_channels,
        image_channels=facts.channels,
        labels=facts.labels,
        text_width=facts.text_width,
        diffusion=True,
        paper=facts.paper,
        n_factors=0 if facts.paper else rules.FACTORS,
    )


def shorten(facts: Facts, current: Draft) -> Draft | None:
    """A draft with a smaller patch: the relatively longest axis is one network stride shorter. None if impossible."""
    least, width = rules.least_size(facts.spacing, (2, 2, 2)), current.network.stages[0].width
    ratios = [edge / size for edge, size in zip(current.patch, facts.median_shape, strict=True)]
    for axis in sorted(range(3), key=ratios.__getitem__, reverse=True):
        size = lengthened(current.patch, axis, -_step(facts, current, axis))
        if size[axis] >= least[axis]:
            shorter = draft(facts, size, width)
            if prod(shorter.patch) < prod(current.patch):
                return shorter
    return None


def _step(facts: Facts, current: Draft, axis: int) -> int:
    """The voxels by which an axis is shortened: the network's stride, on a GPU that of the shorter patch's (nnU-Net).

    It may be half of the present one: 256 voxels have stride 64, and 224 voxels have stride 32.
    """
    stride = current.network.stride
    if not facts.rules.finer_steps:
        return stride[axis]
    return rules.ladder(facts.spacing, lengthened(current.patch, axis, -stride[axis])).total()[axis]


def choose_batch(facts: Facts, chosen: Draft) -> tuple[int, str]:
    """The batch size, and the reason: as many patches as fit, at most 5% of the data set, at least 2 (nnU-Net)."""
    patches = max(1.0, prod(facts.median_shape) / prod(chosen.patch))
    of_data = round(MAX_DATA_SHARE * facts.cases * patches)
    most = max(MIN_BATCH, min(of_data, facts.rules.largest_batch or of_data))
    batch = MIN_BATCH
    while batch < most and replace(chosen, batch=batch + 1).fits(facts.budget):
        batch += 1
    reason = (
        f"at least {MIN_BATCH}; beyond that at most {MAX_DATA_SHARE:.0%} of the data set ({facts.cases} cases, each as "
        f"large as {patches:.3g} patches: {of_data})"
    )
    if facts.rules.largest_batch:
        reason += f", at most {facts.rules.largest_batch} on a CPU"
    return batch, reason + (", and no more fit the budget" if batch < most else "")


def plan_low_resolution(facts: Facts, chosen: Draft) -> tuple[LowResolutionPlan | None, str]:
    """nnU-Net's low-resolution plan, and the reason.

    None if the patch covers enough of the median case, or if a lower resolution would save little.

    The spacing is coarsened in steps of 3% until the patch covers a quarter of the median case. Fine axes are
    coarsened first, until they are within a factor of two of the coarsest.
    """
    spacing, shape, patch = facts.spacing, facts.median_shape, chosen.patch
    share = min(1.0, prod(patch) / prod(shape))
    if share >= MIN_PATCH_SHARE:
        return None, f"the patch covers {share:.0%} of a median case (at least {MIN_PATCH_SHARE:.0%})"
    while prod(patch) < MIN_PATCH_SHARE * prod(shape):
        spacing = coarser(spacing)
        shape = resampled_shape(facts.median_shape, facts.spacing, spacing)
        patch = search(replace(facts, spacing=spacing, median_shape=shape)).patch
    saved = prod(facts.median_shape) / prod(shape)
    if saved < MIN_VOXEL_FACTOR:
        return None, (
            f"at {sizes_text(spacing)} mm the patch would cover {MIN_PATCH_SHARE:.0%} of a median case, which saves "
            f"a factor of {saved:.2g} in voxels (less than {MIN_VOXEL_FACTOR:g})"
        )
    full, low = rules.windows(facts.median_shape, chosen.patch), rules.windows(shape, patch)
    note = (
        f"the patch covers {share:.1%} of a median case (under {MIN_PATCH_SHARE:.0%}): {full} windows at full "
        f"resolution, {low} at {sizes_text(spacing)} mm ({full / low:.1f} times fewer). A model of low resolution, "
        "which tds_train --resolution low trains, shows the full resolution where to look"
    )
    low_resolution = LowResolutionPlan(
        spacing=spacing, median_shape=shape, patch=patch, windows_full=full, windows_low=low, note=note
    )
    return low_resolution, note
