"""nnU-Net's augmentation of training patches: its transforms, ranges and probabilities, from batchgeneratorsv2.

`strong` adds changes of intensity that other scanners may make (`intensity.py`).

Rotation, scaling and mirroring are drawn first. Then only the box that the rotated patch covers is read from the
stored case. Its corners therefore hold image data wherever the case has some.

Image and labels are interpolated together: labels as one-hot channels with an argmax. Strongly anisotropic patches
are rotated only in the plane of their fine axes (nnU-Net's "dummy 2D").

A training sample is a function of its generator. The intensity transforms draw from the global generators of torch
and numpy. These are seeded for each sample and restored afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import grid_sample

from plans.geometry import Triple
from plans.plan import AugmentationKind, Plan

if TYPE_CHECKING:
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

MAX_ROTATION_RADIANS = np.deg2rad(30)  # about each axis; any angle about the coarse axis of anisotropic patches
MIN_SCALE, MAX_SCALE = 0.7, 1.4  # a larger factor shows the structures smaller
P_ROTATION, P_SCALING, P_MIRROR = 0.2, 0.2, 0.5
MAX_EDGE_RATIO = 3  # a patch with a larger ratio of edges is rotated in its plane only
MAX_CHANNELS_AT_ONCE = 8  # label channels that are interpolated together; it bounds the memory


class Stored(Protocol):
    """An array in memory or on disk. Indexing with a tuple of slices, one per axis, returns a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, box: tuple[slice, ...], /) -> np.ndarray: ...


@dataclass(frozen=True)
class Placement:
    """The spatial transform of a training sample, as drawn."""

    matrix: np.ndarray | None  # (3, 3): voxel offset from the patch's centre -> offset in the case; None: identity
    mirrored: tuple[int, ...]  # axes 0 to 2 of (D, H, W)


class Augmentation:
    """`augment(image, labels, shape, start, rng)` reads and augments one patch."""

    def __init__(self, plan: Plan):
        self.patch, self.mirror_axes = plan.patch, plan.mirror_axes
        self.axes_without_text = (*plan.mirror_axes, *plan.text_axes)
        self.keeps_directions = bool(plan.text_axes)  # texts of cases name some
        self.coarse_axis = coarse_axis(plan.patch)
        self.kind = plan.training.augmentation
        self.intensity = _intensity(self.kind, self.coarse_axis)
        self.masked = [i for i, channel in enumerate(plan.channels) if channel.foreground_only]
        self.optional = plan.optional_channels

    def __call__(
        self, image: Stored, labels: Stored, shape: Triple, start: Triple, rng: np.random.Generator, texted: bool = True
    ) -> tuple[Tensor, Tensor, Placement]:
        """The augmented patch: image (C, *patch) float32 and label map (*patch) int16, and its spatial transform.

        Image and label map are 0 outside the case.

        Args:
            image: (C, D, H, W).
            labels: (D, H, W).
            shape: of the case, in voxels (D, H, W).
            start: the patch's first voxel before it is rotated about its centre; may be negative.
            rng: the sample's generator.
            texted: the sample may read a text, which mirroring and rotation must not contradict.
        """
        p_scaling = 0.0 if self.kind == "paper" else P_SCALING
        axes = self.mirror_axes if texted else self.axes_without_text
        max_radians = MAX_ROTATION_RADIANS if texted and self.keeps_directions else np.pi
        placement = draw_placement(rng, axes, self.coarse_axis, p_scaling, max_radians)
        patch_image, label_map = cut_patch(image, labels, shape, start, self.patch, placement)
        outside = [patch_image[channel] == 0 for channel in self.masked]
        missing = [channel for channel in self.optional if not patch_image[channel].any()]
        with seeded(int(rng.integers(2**32))):
            patch_image = self.intensity(image=patch_image)["image"]
        for channel, where in zip(self.masked, outside, strict=True):
            patch_image[channel][where] = 0  # nnU-Net's mask rule: voxels outside the nonzero mask stay 0
        patch_image[missing] = 0  # as in prediction, also after noise
        return patch_image, label_map, placement


def _intensity(kind: AugmentationKind, coarse_axis: int | None) -> "BasicTransform":
    # Imported here, as it needs the extra `train` and this module is imported without it.
    from textdiffseg.data.intensity import intensity_transforms, paper_intensity_transforms

    return paper_intensity_transforms() if kind == "paper" else intensity_transforms(coarse_axis, kind == "strong")


def coarse_axis(patch: Triple) -> int | None:
    """The only axis to rotate about, or None to rotate about all three.

    It is the only short one (nnU-Net's rule is for the axis of thick slices). A long, narrow patch has two.
    """
    shortest, second, longest = sorted(patch)
    is_thin = longest > MAX_EDGE_RATIO * shortest and 2 * shortest <= second
    return int(np.argmin(patch)) if is_thin else None


def draw_placement(
    rng: np.random.Generator,
    mirror_axes: tuple[int, ...],
    only_about: int | None = None,
    p_scaling: float = P_SCALING,
    max_radians: float = np.pi,
) -> Placement:
    """Draw rotation, scaling and mirroring.

    With `only_about`, the patch is rotated about that axis only, by up to `max_radians`, and not scaled along it.
    """
    rotated, scaled = rng.random() < P_ROTATION, rng.random() < p_scaling
    angles, scales = np.zeros(3), np.ones(3)
    if rotated and only_about is None:
        angles = rng.uniform(-MAX_ROTATION_RADIANS, MAX_ROTATION_RADIANS, 3)
    elif rotated:
        angles[only_about] = rng.uniform(-max_radians, max_radians)
    if scaled:
        scales = np.where(np.arange(3) == only_about, 1.0, rng.uniform(MIN_SCALE, MAX_SCALE))  # one factor for all axes
    mirrored = tuple(axis for axis in mirror_axes if rng.random() < P_MIRROR)
    return Placement(spatial_matrix(angles, scales) if rotated or scaled else None, mirrored)


def spatial_matrix(angles: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The matrix (3, 3) that scales axes 0, 1 and 2, then rotates about them by `angles` (radians)."""
    return Rotation.from_euler("xyz", angles).as_matrix() * np.asarray(scales)


def cut_patch(
    image: Stored, labels: Stored, shape: Triple, start: Triple, patch: Triple, placement: Placement
) -> tuple[Tensor, Tensor]:
    """The patch under a spatial transform: image (C, *patch) float32, label map (*patch) int16."""
    if placement.matrix is None:
        patch_image, label_map = read_patch(image, labels, shape, start, patch)
    else:
        patch_image, label_map = _read_transformed(image, labels, shape, start, patch, placement.matrix)
    if placement.mirrored:
        patch_image = patch_image.flip([axis + 1 for axis in placement.mirrored])
        label_map = label_map.flip(placement.mirrored)
    return patch_image, label_map


def read_patch(image: Stored, labels: Stored, shape: Triple, start: Triple, patch: Triple) -> tuple[Tensor, Tensor]:
    """The patch without a spatial transform. Image and label map are 0 outside the case (nnU-Net's padding)."""
    ends = [first + size for first, size in zip(start, patch, strict=True)]
    inside = [slice(max(0, first), min(size, end)) for first, size, end in zip(start, shape, ends, strict=True)]
    target = tuple(slice(axis.start - first, axis.stop - first) for axis, first in zip(inside, start, strict=True))
    patch_image = np.zeros((image.shape[0], *patch), np.float32)
    label_map = np.zeros(patch, np.int16)
    if all(axis.stop > axis.start for axis in inside):
        patch_image[(slice(None), *target)] = image[(slice(None), *inside)]
        label_map[target] = labels[tuple(inside)]
    return torch.from_numpy(patch_image), torch.from_numpy(label_map)


def _read_transformed(
    image: Stored, labels: Stored, shape: Triple, start: Triple, patch: Triple, matrix: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The patch, interpolated at centre + matrix @ offset. Only the smallest box that covers these points is read."""
    half = (np.array(patch) - 1) / 2
    centre = np.array(start) + half
    half_extent = np.abs(matrix) @ half + 1
    low = np.clip(np.floor(centre - half_extent).astype(int), 0, np.array(shape) - 1)
    high = np.clip(np.ceil(centre + half_extent).astype(int) + 1, low + 1, shape)
    box = tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    patch_image = torch.from_numpy(np.asarray(image[(slice(None), *box)], dtype=np.float32))
    label_map = torch.from_numpy(np.asarray(labels[box], dtype=np.int16))
    grid = _grid(matrix, patch, centre - low, high - low)
    return _interpolate(patch_image, label_map, grid)


def _grid(matrix: np.ndarray, patch: Triple, centre: np.ndarray, size: np.ndarray) -> Tensor:
    """Sampling points (1, *patch, 3) for `grid_sample` on a box of `size` voxels; coordinates (x, y, z)."""
    offsets = [np.arange(edge) - (edge - 1) / 2 for edge in patch]
    grid = torch.empty(1, *patch, 3)
    for row in range(3):
        # with align_corners=False, voxel p of n has the coordinate (2 p + 1) / n - 1
        terms = [matrix[row, axis] * offsets[axis] * 2 / size[row] for axis in range(3)]
        terms[0] = terms[0] + (2 * centre[row] + 1) / size[row] - 1
        d, h, w = (torch.from_numpy(term).float() for term in terms)
        torch.add(d[:, None, None] + h[:, None], w, out=grid[0, ..., 2 - row])
    return grid


def _interpolate(patch_image: Tensor, label_map: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Linear interpolation of the image and of each label's indicator. The label with the largest indicator wins.

    Indicators are 0 outside the box, so background's indicator is computed as 1 minus the sum of all others.
    """
    lowest = int(label_map.min())  # -1 if some voxels are ignored
    counts = torch.bincount((label_map - lowest).flatten())  # many times faster than torch.unique
    present = [value for value in (counts.nonzero().flatten() + lowest).tolist() if value != 0]
    channels = len(patch_image)
    stacked = torch.cat([patch_image, _indicators(label_map, present[:MAX_CHANNELS_AT_ONCE])])
    sampled = grid_sample(stacked[None], grid, align_corners=False)[0]
    best = torch.zeros(grid.shape[1:-1])
    total, winner = torch.zeros_like(best), torch.zeros_like(best, dtype=torch.int16)
    scores = sampled[channels:]
    for begin in range(0, len(present), MAX_CHANNELS_AT_ONCE):
        group = present[begin : begin + MAX_CHANNELS_AT_ONCE]
        if begin:
            scores = grid_sample(_indicators(label_map, group)[None], grid, align_corners=False)[0]
        for value, score in zip(group, scores, strict=True):
            total += score
            better = score > best
            winner.masked_fill_(better, value)
            torch.maximum(best, score, out=best)
    return sampled[:channels].contiguous(), winner.masked_fill_(1 - total > best, 0)


def _indicators(label_map: Tensor, values: list[int]) -> Tensor:
    channels = torch.tensor(values, dtype=label_map.dtype).view(-1, 1, 1, 1)
    return (label_map[None] == channels).float()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU) and numpy inside the context, and restore them afterwards."""
    before = np.random.get_state()  # noqa: NPY002 (the transforms draw from it)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
