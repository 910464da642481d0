"""The rules. Each is a pure function over numbers that returns its decision and the reason for it, in words.

Where nnU-Net has the rule, this is nnU-Net's (Isensee et al., Nature Methods 2021; the planner of its version 2).
Axis order is (D, H, W) = (z, y, x), spacings are in mm, sizes in voxels.
"""

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from plans.fingerprint import Fingerprint
from plans.geometry import Millimetres, Triple, millimetres, triple
from plans.plan import ChannelPlan, Scheme

ANISOTROPY = 3.0  # nnU-Net: an axis this much coarser than the others is treated apart
SMALLEST_EDGE = 4  # nnU-Net: no axis of the coarsest grid is shorter, in positions
MASK_SHARE = 0.75  # nnU-Net: z-scores are taken inside the mask where cropping leaves less than this
PAPER_PATCH, PAPER_STRIDE = 96, 16  # voxels along each axis; of the latent grid
COARSER_STAGES = 2  # the denoiser goes this many stages below the latent grid
ATTENTION_TOKENS = 4000
DEFAULT_STRIDE, COARSEST_STRIDE = 4, 8  # of the latent grid
# Positions of the latent grid that the thinnest structure must span, up to the default stride and beyond it. Hippocampi
# 3.5 voxels thick were rebuilt from a stride of 4 with Dice 0.965.
POSITIONS, POSITIONS_BEYOND = 0.75, 2
MAX_POSITION_VOXELS, MANY_LABELS = 64, 32  # beyond either, a position of the latent grid gets more channels
SCHEMES: dict[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "none": "none",
    "zscore": "zscore",
    "rescale_0_1": "rescale_to_0_1",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rescale_to_0_1",
}


@dataclass(frozen=True)
class Ladder:
    """Strides and kernels of the stages, from fine to coarse."""

    strides: tuple[Triple, ...]  # relative to the stage before
    kernels: tuple[Triple, ...]

    def total(self, level: int | None = None) -> Triple:
        """Cumulative stride of a stage, by default the coarsest."""
        strides = self.strides if level is None else self.strides[: level + 1]
        return triple(prod(stride[axis] for stride in strides) for axis in range(3))

    def down_to(self, level: int) -> "Ladder":
        """The stages 0..level."""
        return Ladder(self.strides[: level + 1], self.kernels[: level + 1])


def low_resolution_axis(spacing_from: Millimetres, spacing_to: Millimetres) -> int | None:
    """The axis that is resampled apart from the other two (nnU-Net's `determine_do_sep_z_and_axis`), if any.

    An axis counts where its spacing is more than `ANISOTROPY` times the finest, first in the grid resampled
    from, then in the grid resampled to. Where two axes are equally coarse there is no single axis, hence None.
    """
    for spacing in (spacing_from, spacing_to):
        coarsest = max(spacing)
        if coarsest > ANISOTROPY * min(spacing):
            axes = [axis for axis in range(3) if spacing[axis] == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None


def target_spacing(fingerprint: Fingerprint) -> tuple[Millimetres, str]:
    """nnU-Net's `determine_fullres_target_spacing`: the median, but the 10th percentile of an axis that is both
    much coarser (in mm) and much shorter (in voxels) than the other two."""
    spacings = fingerprint.spacings()
    target, size = np.median(spacings, axis=0), np.median(fingerprint.cropped_shapes(), axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    finer = float(target[others].max())
    reason = "median spacing of the cases"
    if target[coarse] > ANISOTROPY * finer and size[coarse] * ANISOTROPY < size[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        reason += (
            f"; axis {'DHW'[coarse]} is over {ANISOTROPY:g} times coarser ({target[coarse]:.3g} against "
            f"{finer:.3g} mm) and shorter ({size[coarse]:.0f} voxels), so there the 10th percentile, {tenth:.3g} mm"
        )
        if tenth < finer:
            tenth, reason = finer + 1e-5, f"{reason}, but no finer than the other axes"
        target[coarse] = tenth
    return millimetres(float(value) for value in target), reason


def scheme_of(channel: str) -> Scheme:
    """nnU-Net's intensity scheme by channel name."""
    return SCHEMES.get(channel.strip().casefold(), "zscore")


def channel_plan(name: str, index: int, fingerprint: Fingerprint) -> tuple[ChannelPlan, str]:
    """The channel's scheme, its numbers, and nnU-Net's rule for z-scores inside the mask."""
    scheme = scheme_of(name)
    sample = fingerprint.intensities(index)
    numbers = {}
    if scheme == "ct" and len(sample):  # the others take their numbers from the case
        low, high = np.percentile(sample, (0.5, 99.5))
        numbers = {"mean": float(sample.mean()), "std": max(float(sample.std()), 1e-8), "low": low, "high": high}
    share = fingerprint.cropped_share()
    inside = scheme == "zscore" and share < MASK_SHARE
    reason = {
        "ct": "the channel is called CT: clip to the 0.5 and 99.5 percentiles of foreground over the data set, "
        "subtract its mean, divide by its standard deviation",
        "zscore": ("named by the channel" if name.strip().casefold() in SCHEMES else "the name is not that of a scheme")
        + ": each case to mean 0 and standard deviation 1",
        "rescale_to_0_1": "named by the channel: each case to the range 0 to 1",
        "none": "named by the channel: values as they are",
    }[scheme]
    if scheme == "zscore":
        side = "less" if inside else "not less"
        where = "inside the nonzero mask alone" if inside else "over the whole case"
        reason += f", {where}, as cropping leaves {share:.0%} of a median case ({side} than {MASK_SHARE:.0%})"
    return ChannelPlan(name=name, scheme=scheme, foreground_only=inside, **numbers), reason


def ladder(spacing: Millimetres, size: Triple) -> Ladder:
    """nnU-Net's `get_pool_and_conv_props`: every stage halves the axes that are within a factor of two of the
    finest spacing and still long enough; a kernel spans an axis once that axis has come within that factor.

    Stricter than nnU-Net in one point: the finest spacing is that of all axes, also of those too short to halve,
    so that no axis is ever pooled across a spacing ratio of two.
    """
    spans: Triple = (1, 1, 1)
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    while True:
        near = [spacing[axis] / min(spacing) < 2 for axis in range(3)]
        spans = triple(3 if is_near else span for is_near, span in zip(near, spans, strict=True))
        kernels.append(spans)
        halved = [near[axis] and size[axis] >= 2 * SMALLEST_EDGE for axis in range(3)]
        alone = [size[axis] for axis in range(3) if halved[axis]]
        if not alone or (len(alone) == 1 and alone[0] < 3 * SMALLEST_EDGE):
            return Ladder(tuple(strides), tuple(kernels))
        strides.append(triple(2 if half else 1 for half in halved))
        size = triple(ceil(value / 2) if half else value for value, half in zip(size, halved, strict=True))
        spacing = millimetres(value * 2 if half else value for value, half in zip(spacing, halved, strict=True))


def least_size(spacing: Millimetres, size: Triple) -> Triple:
    """`size`, enlarged where a ladder would otherwise have no second stage: a case may be that small."""
    near = [one / min(spacing) < 2 for one in spacing]
    least = (3 if sum(near) == 1 else 2) * SMALLEST_EDGE
    return triple(max(edge, least) if is_near else edge for edge, is_near in zip(size, near, strict=True))


def first_patch(spacing: Millimetres, median_shape: Triple, voxels: int) -> Triple:
    """A cube in mm of so many voxels, cut to the median shape (nnU-Net starts its search there)."""
    inverse = 1 / np.array(spacing)
    cube = np.round(inverse * (voxels / inverse.prod()) ** (1 / 3))
    return least_size(spacing, triple(int(max(2, edge)) for edge in np.minimum(cube, median_shape)))


def paper_patch(spacing: Millimetres, median_shape: Triple) -> Triple:
    """The publication's 96 x 96 x 96, cut to the median shape; the network's strides pad it."""
    return least_size(spacing, triple(min(PAPER_PATCH, edge) for edge in median_shape))


def paper_level(steps: Ladder) -> int:
    """The stage of the publication's latent grid: stride 16, or the coarsest that the patch allows."""
    return max(level for level in range(1, len(steps.strides)) if max(steps.total(level)) <= PAPER_STRIDE)


def pad_to(size: Triple, stride: Triple) -> Triple:
    """The next size that is divisible by `stride`."""
    return triple(ceil(edge / step) * step for edge, step in zip(size, stride, strict=True))


def latent_level(thickness: dict[str, float], spacing: Millimetres, steps: Ladder) -> tuple[int, str]:
    """The stage of the latent grid: the coarsest that still carries the smallest structure.

    `thickness` is that of each label by name, in mm, the 10th percentile over cases: small structures count, outliers
    do not.
    A structure must be about one position thick, along every axis that is pooled; beyond stride 4 two positions,
    since one then holds too much shape for its few channels. Strides stay within 2 to 8.
    """
    level, stop = 1, "the patch has no coarser one"
    for candidate in range(2, len(steps.strides)):
        total = steps.total(candidate)
        wanted, spanned = _positions(total), _spanned(thickness, spacing, total)
        if max(total) > COARSEST_STRIDE:
            stop = f"a coarser one than stride {COARSEST_STRIDE} is not used"
            break
        if spanned < wanted:
            stop = f"at stride {numbers(total)} it would span {spanned:.2g}, and {wanted:g} are needed there"
            break
        level = candidate
    if not thickness:
        return level, f"no structure was measured, so the coarsest grid that there is: {stop}"
    thinnest, total = min(thickness, key=lambda name: thickness[name]), steps.total(level)
    spanned = _spanned(thickness, spacing, total)
    reason = f"the thinnest structure, {thinnest}, measures {thickness[thinnest]:.3g} mm (10th percentile over cases)"
    reason += f" and spans {spanned:.2g} positions of this grid; {stop}"
    if spanned < _positions(total):
        reason += f"; a finer one than stride {numbers(total)} is not used"
    return level, reason


def _positions(stride: Triple) -> float:
    """How many positions of the latent grid the thinnest structure must span."""
    return POSITIONS_BEYOND if max(stride) > DEFAULT_STRIDE else POSITIONS


def _spanned(thickness: dict[str, float], spacing: Millimetres, stride: Triple) -> float:
    """How many positions the thinnest structure spans, along the pooled axis whose positions are largest."""
    position = max(one * step for one, step in zip(spacing, stride, strict=True) if step > 1)
    return min(thickness.values(), default=float("inf")) / position


def latent_channels(stride: Triple, labels: int) -> tuple[int, str]:
    """k: 8, and 16 where a position stands for more than 4 x 4 x 4 voxels or must tell many labels apart."""
    voxels = prod(stride)
    reasons = [f"a position stands for {voxels} voxels (over {MAX_POSITION_VOXELS})"] * (voxels > MAX_POSITION_VOXELS)
    reasons += [f"there are {labels} labels (over {MANY_LABELS})"] * (labels > MANY_LABELS)
    if reasons:
        return 16, " and ".join(reasons)
    few = f"voxels of a position: {voxels} (at most {MAX_POSITION_VOXELS})"
    return 8, f"{few}; labels: {labels} (at most {MANY_LABELS})"


def tokens(patch: Triple, stride: Triple) -> int:
    """Positions of a grid."""
    return prod(ceil(edge / step) for edge, step in zip(patch, stride, strict=True))


def attends(patch: Triple, stride: Triple) -> bool:
    """Self-attention is affordable on this grid."""
    return tokens(patch, stride) <= ATTENTION_TOKENS


def windows(shape: Triple, patch: Triple) -> int:
    """Windows that cover a volume with overlap one half."""
    return prod(ceil(max(0, size - edge) / max(1, edge // 2)) + 1 for size, edge in zip(shape, patch, strict=True))


def numbers(values: tuple[float, ...]) -> str:
    """For people: `40 x 56 x 40`, `1 x 0.98 x 3.27`."""
    return " x ".join(f"{value:.4g}" for value in values)
