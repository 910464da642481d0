"""The planning rules: pure functions of measurements. They return a decision and its reason as text.

A rule that nnU-Net has is nnU-Net's (Isensee et al., Nature Methods 2021; the planner of version 2). The axis order
is (D, H, W) = (z, y, x). Spacings are in mm, sizes in voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log, prod
from typing import TypeVar

import numpy as np

from plans.fingerprint import Fingerprint
from plans.geometry import AXIS_NAMES, Millimetres, Triple, cumulative, millimetres, triple
from plans.network_plan import OverviewPlan
from plans.plan import ChannelPlan, Crop, Scheme

MAX_SPACING_RATIO = 3.0  # nnU-Net: an axis that is coarser by more than this factor has its own rules
EQUAL = 1e-3  # relative difference of spacings that is rounding
MIN_GRID_EDGE = 4  # nnU-Net: the shortest axis of the coarsest grid, in positions
MAX_MASKED_SHARE = 0.75  # nnU-Net: below this share of voxels left by cropping, z-scores use the mask only
HU_LIMIT = 1000.0  # of a CT channel without foreground
PAPER_PATCH, PAPER_STRIDE = 96, 16  # voxels along each axis; of the latent grid
PAPER_COARSER_STAGES = 2  # the number of its denoiser's stages below the latent grid
MAX_ATTENTION_TOKENS = 4000
MAX_TOKENS_PER_CHANNEL = 13  # beyond, self-attention costs more than half of a residual block of the same width
MAX_FUSION_STRIDE = 4
# The positions that a typical structure must span: one voxel at stride 4. Thinner ones are carried by the skips.
MIN_POSITIONS = 0.25
LATENT_LEVEL = 1  # the stage of the label latent: stride 2
FACTORS = 8  # common factors of a sample; a stochastic segmentation network has 10 (Monteiro et al. 2020)
OVERVIEW_SHARE = 0.5  # of the median case; a patch that covers less leaves most of a scan unseen
MAX_FEW_LABELS = 32  # beyond it, the label latent gets more channels
SCHEMES: dict[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "none": "none",
    "zscore": "zscore",
    "rescale_0_1": "rescale_to_0_1",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rescale_to_0_1",
}
Label = TypeVar("Label", str, int)


@dataclass(frozen=True)
class Ladder:
    """Strides and kernels of the stages, from fine to coarse."""

    strides: tuple[Triple, ...]  # relative to the next finer stage
    kernels: tuple[Triple, ...]

    def total(self, level: int | None = None) -> Triple:
        """The cumulative stride of a stage, by default the coarsest, in voxels (D, H, W)."""
        return cumulative(self.strides if level is None else self.strides[: level + 1])

    def down_to(self, level: int) -> "Ladder":
        """The stages 0..level."""
        return Ladder(self.strides[: level + 1], self.kernels[: level + 1])


def low_resolution_axis(spacing_from: Millimetres, spacing_to: Millimetres) -> int | None:
    """The axis to resample separately from the other two, or None (nnU-Net's `determine_do_sep_z_and_axis`).

    It is the axis whose spacing exceeds `MAX_SPACING_RATIO` times the finest. The input grid is examined first, then
    the output grid. If two axes are equally coarse but for rounding, the result is None.
    """
    for spacing in (spacing_from, spacing_to):
        coarsest = max(spacing)
        if coarsest > MAX_SPACING_RATIO * min(spacing):
            axes = [axis for axis in range(3) if spacing[axis] > coarsest * (1 - EQUAL)]
            return axes[0] if len(axes) == 1 else None
    return None


def target_spacing(fingerprint: Fingerprint) -> tuple[Millimetres, str]:
    """The plan's spacing in mm, and the reason (nnU-Net's `determine_fullres_target_spacing`).

    It is the median over cases. An axis that is much coarser (in mm) and much shorter (in voxels) than the other two
    gets the 10th percentile.
    """
    spacings = fingerprint.spacings()
    target, size = np.median(spacings, axis=0), np.median(fingerprint.cropped_shapes(), axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    finer = float(target[others].max())
    reason = "median spacing of the cases"
    if target[coarse] > MAX_SPACING_RATIO * finer and size[coarse] * MAX_SPACING_RATIO < size[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        reason += (
            f"; axis {AXIS_NAMES[coarse]} is over {MAX_SPACING_RATIO:g} times coarser ({target[coarse]:.3g} against "
            f"{finer:.3g} mm) and shorter ({size[coarse]:.0f} voxels), so there the 10th percentile, {tenth:.3g} mm"
        )
        if tenth < finer:
            tenth, reason = finer + 1e-5, f"{reason}, but no finer than the other axes"
        target[coarse] = tenth
    return millimetres(float(value) for value in target), reason


def scheme_of(channel: str) -> Scheme:
    """nnU-Net's intensity scheme for a channel name."""
    return SCHEMES.get(channel.strip().casefold(), "zscore")


def crop_of(channels: Sequence[str]) -> Crop:
    """What is kept of each scan: the body if all channels are CT, else the nonzero region (nnU-Net's crop)."""
    return "body" if channels and all(scheme_of(channel) == "ct" for channel in channels) else "nonzero"


def channel_plan(name: str, index: int, fingerprint: Fingerprint, optional: bool = False) -> tuple[ChannelPlan, str]:
    """The normalisation of a channel, and the reason. z-scores follow nnU-Net's rule for the mask.

    `optional`: a case may lack the channel.
    """
    scheme = scheme_of(name)
    sample = fingerprint.intensities(index)
    statistics = {}
    if scheme == "ct" and len(sample):  # the other schemes use statistics of the single case
        low, high = np.percentile(sample, (0.5, 99.5))
        statistics = {"mean": float(sample.mean()), "std": max(float(sample.std()), 1e-8), "low": low, "high": high}
    elif scheme == "ct":
        statistics = {"mean": 0.0, "std": HU_LIMIT / 2, "low": -HU_LIMIT, "high": HU_LIMIT}
    share = fingerprint.cropped_share()
    inside = scheme == "zscore" and share < MAX_MASKED_SHARE
    reason = {
        "ct": "the channel is called CT: clip to the 0.5 and 99.5 percentiles of foreground over the data set, "
        "subtract its mean, divide by its standard deviation",
        "zscore": (
            "named by the channel"
            if name.strip().casefold() in SCHEMES
            else "the usual one for a channel that is not called CT"
        )
        + ": each case to mean 0 and standard deviation 1",
        "rescale_to_0_1": "named by the channel: each case to the range 0 to 1",
        "none": "named by the channel: values as they are",
    }[scheme]
    if scheme == "ct" and len(sample) == 0:
        reason = (
            f"the channel is called CT, and no case with it has foreground: clip to {HU_LIMIT:g} HU on both sides of 0"
        )
    if scheme == "zscore":
        side = "less" if inside else "not less"
        where = "only inside the nonzero mask" if inside else "over the whole case"
        reason += f", {where}, as cropping leaves {share:.0%} of a median case ({side} than {MAX_MASKED_SHARE:.0%})"
    if optional:
        reason += "; a case may lack it (optional_channels), so some training samples go without it"
    return ChannelPlan(name=name, scheme=scheme, foreground_only=inside, optional=optional, **statistics), reason


def ladder(spacing: Millimetres, size: Triple) -> Ladder:
    """The stages for a patch of `size` voxels at `spacing` (nnU-Net's `get_pool_and_conv_props`).

    Every stage halves the axes whose spacing is within a factor of two of the finest and that are long enough. The
    kernel has 1 voxel along an axis until the axis is within that factor, then 3.

    One point is stricter than in nnU-Net: the finest spacing also includes axes that are too short to halve. So no
    axis is pooled while its spacing is twice that of another.
    """
    spans: Triple = (1, 1, 1)
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    while True:
        near = [spacing[axis] / min(spacing) < 2 for axis in range(3)]
        spans = triple(3 if is_near else span for is_near, span in zip(near, spans, strict=True))
        kernels.append(spans)
        halved = [near[axis] and size[axis] >= 2 * MIN_GRID_EDGE for axis in range(3)]
        edges = [size[axis] for axis in range(3) if halved[axis]]
        if not edges or (len(edges) == 1 and edges[0] < 3 * MIN_GRID_EDGE):
            return Ladder(tuple(strides), tuple(kernels))
        strides.append(triple(2 if half else 1 for half in halved))
        size = triple(ceil(value / 2) if half else value for value, half in zip(size, halved, strict=True))
        spacing = millimetres(value * 2 if half else value for value, half in zip(spacing, halved, strict=True))


def least_size(spacing: Millimetres, size: Triple) -> Triple:
    """`size`, enlarged so that its ladder has a second stage. Small cases need this."""
    near = [step / min(spacing) < 2 for step in spacing]
    least = (3 if sum(near) == 1 else 2) * MIN_GRID_EDGE
    return triple(max(edge, least) if is_near else edge for edge, is_near in zip(size, near, strict=True))


def first_patch(spacing: Millimetres, median_shape: Triple, voxels: int) -> Triple:
    """A cube in mm of `voxels` voxels, cut to the median shape. nnU-Net's search starts with this patch."""
    inverse = 1 / np.array(spacing)
    cube = np.round(inverse * (voxels / inverse.prod()) ** (1 / 3))
    return least_size(spacing, triple(int(max(2, edge)) for edge in np.minimum(cube, median_shape)))


def paper_patch(spacing: Millimetres, median_shape: Triple) -> Triple:
    """The publication's patch, 96 x 96 x 96, cut to the median shape. It is later padded to the network's strides."""
    return least_size(spacing, triple(min(PAPER_PATCH, edge) for edge in median_shape))


def paper_level(steps: Ladder) -> int:
    """The stage of the publication's latent grid: stride 16, or the coarsest below 16 that the patch allows."""
    return max(level for level in range(1, len(steps.strides)) if max(steps.total(level)) <= PAPER_STRIDE)


def pad_to(size: Triple, stride: Triple) -> Triple:
    """The next larger size that is divisible by `stride`, in voxels (D, H, W)."""
    return triple(ceil(edge / step) * step for edge, step in zip(size, stride, strict=True))


def median_label(thickness: Mapping[Label, float]) -> Label | None:
    """The label of median thickness, of two the thinner one: the typical structure. None without labels."""
    ordered = sorted(thickness, key=lambda label: thickness[label])
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def fusion_level(thickness: dict[str, float], spacing: Millimetres, steps: Ladder) -> tuple[int, str]:
    """The stage where the words meet the image, and the reason: stride 4, or the coarsest grid that suits the labels.

    The typical structure is the label with the median thickness. Along every pooled axis it must span `MIN_POSITIONS`
    positions. A single thin label does not decide: a finer grid costs all labels, and the mask also sees the skips.

    Args:
        thickness: of each label by name, in mm: the 10th percentile over cases, which ignores outliers.
        spacing: of the plan, in mm.
        steps: strides of the stages.
    """
    name = median_label(thickness)
    typical = thickness[name] if name else float("inf")
    level, stop = 1, "the patch has no coarser one"
    for candidate in range(2, len(steps.strides)):
        total = steps.total(candidate)
        spanned = _spanned(typical, spacing, total)
        if max(total) > MAX_FUSION_STRIDE:
            stop = f"a coarser one than stride {MAX_FUSION_STRIDE} is not used"
            break
        if spanned < MIN_POSITIONS:
            stop = f"at stride {sizes_text(total)} it would span {spanned:.2g}, and {MIN_POSITIONS:g} are needed"
            break
        level = candidate
    if name is None:
        return level, f"no structure was measured, so the coarsest grid: {stop}"
    spanned = _spanned(typical, spacing, steps.total(level))
    reason = f"the structure of median thickness, {name}, measures {typical:.3g} mm (10th percentile over cases)"
    reason += f" and spans {spanned:.2g} positions of this grid; {stop}"
    if spanned < MIN_POSITIONS:
        reason += f"; a finer one than stride {sizes_text(steps.total(level))} is not used"
    return level, reason


def min_log_snr(channels: int, positions: int) -> float:
    """The log SNR of the noisiest latent: 2 above that at which the whole latent holds as much signal as one value.

    At -ln(k * positions) the signal's energy, summed over all values of the latent, equals the noise of one value.
    """
    return 2 - log(channels * positions)


def _spanned(thickness: float, spacing: Millimetres, stride: Triple) -> float:
    """The positions that a structure (mm) spans, along the pooled axis with the largest positions."""
    return thickness / max(mm * step for mm, step in zip(spacing, stride, strict=True) if step > 1)


def latent_channels(labels: int) -> tuple[int, str]:
    """The channels k of the label latent, and the reason: 16 for over 32 labels, else 8."""
    if labels > MAX_FEW_LABELS:
        return 16, f"there are {labels} labels (over {MAX_FEW_LABELS})"
    return 8, f"labels: {labels} (at most {MAX_FEW_LABELS})"


def overview(patch: Triple, median_shape: Triple) -> tuple[OverviewPlan | None, str]:
    """The overview of the scan, and the reason; None if a patch covers most of a median case."""
    share = min(1.0, prod(patch) / prod(median_shape))
    if share >= OVERVIEW_SHARE:
        return None, f"the patch covers {share:.0%} of a median case (at least {OVERVIEW_SHARE:.0%})"
    return OverviewPlan(), (
        f"the patch covers {share:.1%} of a median case (under {OVERVIEW_SHARE:.0%}): the network also reads the whole "
        "scan at low resolution"
    )


def grid_positions(patch: Triple, stride: Triple) -> int:
    """The number of grid positions of a patch at a stride."""
    return prod(ceil(edge / step) for edge, step in zip(patch, stride, strict=True))


def attends(patch: Triple, stride: Triple, width: int) -> bool:
    """Whether self-attention between `width` channels is affordable on the grid of a patch at a stride.

    Its products of n positions take 2 n^2 `width` multiplications, a residual block 54 n `width`^2.
    """
    return grid_positions(patch, stride) <= min(MAX_ATTENTION_TOKENS, MAX_TOKENS_PER_CHANNEL * width)


def windows(shape: Triple, patch: Triple) -> int:
    """The number of windows of size `patch` that cover a volume with an overlap of one half."""
    return prod(ceil(max(0, size - edge) / max(1, edge // 2)) + 1 for size, edge in zip(shape, patch, strict=True))


def sizes_text(values: tuple[float, ...]) -> str:
    """Sizes or spacings as text: `40 x 56 x 40`, `1 x 0.98 x 3.27`."""
    return " x ".join(f"{value:.4g}" for value in values)
