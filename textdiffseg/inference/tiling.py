"""The sliding windows of a volume, and the weight of each window at a voxel.

A volume is padded to a multiple of the latent stride and to at least one patch. Every window starts at a multiple of
the latent stride, so all windows share one latent grid. The probability at voxel v is

    p(v) = sum_w g(v - start_w) p_w(v) / sum_w g(v - start_w),

where g is a Gaussian with sigma = patch / 8 (nnU-Net's importance map).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.geometry import Triple, triple
from textdiffseg.inference.region import Region

SIGMA = 1 / 8  # times the patch, as in nnU-Net
MIN_IMPORTANCE = 1e-3  # in float32 the corners of a patch would otherwise be 0

Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Tiling:
    """The windows of one volume. `starts` are voxels of the padded volume in lexicographic order."""

    shape: Triple  # of the volume
    before: Triple  # padding voxels before each axis
    padded: Triple  # shape after padding
    patch: Triple
    stride: Triple  # of the latent grid
    starts: tuple[Triple, ...]

    @property
    def latent_shape(self) -> Triple:
        """The shape (d, h, w) of the padded volume's latent grid."""
        return triple(size // stride for size, stride in zip(self.padded, self.stride, strict=True))

    @property
    def interior(self) -> Window:
        """The slices of the volume inside the padded volume."""
        return _window(slice(b, b + size) for b, size in zip(self.before, self.shape, strict=True))

    @property
    def slab_voxels(self) -> int:
        """The voxels of the padded volume in one patch along D. Sums over windows hold as many."""
        return self.patch[0] * self.padded[1] * self.padded[2]

    def pad(self, image: Tensor) -> Tensor:
        """The image (C, D, H, W), padded with zeros. Zero is the mean of a normalised image."""
        if self.padded == self.shape:
            return image  # not a copy
        pairs = [
            (before, padded - before - size)
            for before, padded, size in zip(self.before, self.padded, self.shape, strict=True)
        ]
        return F.pad(image, [amount for pair in reversed(pairs) for amount in pair])

    def window(self, start: Triple) -> Window:
        """The slices of the window whose first voxel is `start`."""
        return _window(slice(s, s + size) for s, size in zip(start, self.patch, strict=True))

    def near(self, region: Region | None) -> "Tiling":
        """The same tiling with the windows that touch a region of the volume. None: all windows."""
        if region is None:
            return self
        starts = (start for start in self.starts if region.touches(self.window(self.in_volume(start)), self.shape))
        return replace(self, starts=tuple(starts))

    def in_volume(self, start: Triple) -> Triple:
        """The first voxel of the window at `start` in the volume without padding. It may be negative."""
        return triple(s - before for s, before in zip(start, self.before, strict=True))

    def latent_window(self, start: Triple) -> Window:
        """The slices of the window at `start` on the latent grid."""
        corners = zip(start, self.patch, self.stride, strict=True)
        return _window(slice(s // stride, (s + size) // stride) for s, size, stride in corners)


def _window(axes: Iterable[slice]) -> Window:
    d, h, w = axes
    return d, h, w


def tile(shape: Triple, patch: Triple, stride: Triple, overlap: float = 0.5) -> Tiling:
    """Windows of `patch` voxels that overlap by at least the share `overlap` of their size along each axis.

    An axis shorter than the patch is padded on both sides. A longer axis is padded at its end.

    Args:
        shape: of the volume, in voxels (D, H, W).
        patch: of a window, in voxels (D, H, W); a multiple of `stride`.
        stride: of the latent grid, in voxels (D, H, W).
        overlap: at least 0 and below 1, else `ValueError`.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, found {overlap}")
    padded, before, axes = [], [], []
    for size, window, unit in zip(shape, patch, stride, strict=True):
        assert window % unit == 0, f"patch {patch} is not a multiple of the latent stride {stride}"
        target = max(-(-size // unit) * unit, window)
        padded.append(target)
        before.append((window - size) // 2 if size < window else 0)
        axes.append(_starts(target // unit, window // unit, unit, overlap))
    starts = tuple(triple(start) for start in product(*axes))
    return Tiling(triple(shape), triple(before), triple(padded), triple(patch), triple(stride), starts)


def _starts(size: int, window: int, unit: int, overlap: float) -> list[int]:
    """Evenly spaced starts along one axis, in voxels. `size` and `window` are in latent positions."""
    room, step = size - window, max(1, int(window * (1 - overlap)))
    gaps = -(-room // step)
    return [unit * (i * room // gaps) for i in range(gaps + 1)] if gaps else [0]


def importance(patch: Triple) -> Tensor:
    """g: a Gaussian over the patch (D, H, W). It is 1 at the centre and at least `MIN_IMPORTANCE` everywhere."""
    axes = []
    for size in patch:
        offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        axes.append(torch.exp(-0.5 * (offset / (SIGMA * size)) ** 2))
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp_(min=MIN_IMPORTANCE)
