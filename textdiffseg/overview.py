"""`Overview`: the whole scan at low resolution, and where its parts lie relative to a window.

`networks.overview` makes tokens of it, which the network reads beside the words. So a window knows what lies outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plans.geometry import Triple
from textdiffseg.transfer import send

PLANES = 32  # that are read at once: the depth of the blocks on disk, which are unpacked whole


class Sliced(Protocol):
    """An image (C, D, H, W), in memory or on disk, that returns a part when it is sliced."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, box: Any, /) -> Any: ...


@dataclass(frozen=True)
class Overview:
    """The scans of a batch at low resolution, with the places of their cells."""

    image: Tensor  # (B, C, e, e, e) float32: means of the normalised image over cells
    offsets: Tensor  # (B, t, t, t, 3) float32: offsets of coarse cells from the window's centre, in window edges
    known: Tensor  # (B,) bool: False where the overview is not read

    def to(self, device: torch.device | str) -> "Overview":
        """The same overviews on another device."""
        return Overview(send(self.image, device), send(self.offsets, device), send(self.known, device))

    def of(self, samples: Tensor) -> "Overview":
        """The overviews of the samples with the indices `samples` (S,) int64."""
        return Overview(self.image[samples], self.offsets[samples], self.known[samples])

    def without(self, channels: Sequence[int]) -> "Overview":
        """The overviews with some channels set to 0, as in a scan that lacks them."""
        if not channels:
            return self
        image = self.image.clone()
        image[:, list(channels)] = 0
        return replace(self, image=image)

    def flip(self, axes: Sequence[int]) -> "Overview":
        """The overviews of mirrored windows. `axes` are 0 to 2 of (D, H, W)."""
        if not axes:
            return self
        signs = self.offsets.new_ones(3)
        signs[list(axes)] = -1
        return Overview(
            self.image.flip([axis + 2 for axis in axes]),
            self.offsets.flip([axis + 1 for axis in axes]) * signs,
            self.known,
        )


def blank(batch: int, channels: int, edge: int, cells: int) -> Overview:
    """Overviews of zeros, with the shapes of real ones."""
    image = torch.zeros(batch, channels, edge, edge, edge)
    offsets = torch.zeros(batch, cells, cells, cells, 3)
    return Overview(image, offsets, torch.ones(batch, dtype=torch.bool))


def stacked(overviews: Sequence[Overview | None]) -> Overview | None:
    """The overviews of a batch, from those of its samples; None if the samples have none."""
    present = [overview for overview in overviews if overview is not None]
    if not present:
        return None
    return Overview(
        image=torch.cat([overview.image for overview in present]),
        offsets=torch.cat([overview.offsets for overview in present]),
        known=torch.cat([overview.known for overview in present]),
    )


def reduced(image: Sliced, edge: int) -> Tensor:
    """The means of an image (C, D, H, W) over `edge` cells along each axis: (C, edge, edge, edge) float32.

    The image is read in blocks of `PLANES` planes, so that an image on disk is never whole in memory. The cells are
    those of adaptive average pooling. They overlap where `edge` does not divide the axis.
    """
    depth, planes = image.shape[1], []
    start, block = 0, np.asarray(image[:, 0 : min(PLANES, depth)])
    for index in range(edge):
        first, last = index * depth // edge, -(-(index + 1) * depth // edge)
        if last > start + block.shape[1]:
            start = first // PLANES * PLANES
            block = np.asarray(image[:, start : min(-(-last // PLANES) * PLANES, depth)])
        part = torch.as_tensor(block[:, first - start : last - start]).float()
        planes.append(F.adaptive_avg_pool3d(part, (1, edge, edge)))
    return torch.cat(planes, dim=1)


def cell_offsets(shape: Triple, start: Triple, patch: Triple, cells: int, matrix: np.ndarray | None = None) -> Tensor:
    """The offsets (t, t, t, 3) float32 of t = `cells` coarse cells along each axis from a window's centre.

    An offset of 1 is one window edge. The axes are (D, H, W).

    Args:
        shape: of the scan, in voxels.
        start: the window's first voxel in the scan; may be negative.
        patch: of the window, in voxels.
        cells: along each axis of the scan.
        matrix: (3, 3), maps offsets in the window to offsets in the scan (augmentation); None: identity.
    """
    axes = [
        (np.arange(cells) + 0.5) * size / cells - 0.5 - (first + (edge - 1) / 2)
        for size, first, edge in zip(shape, start, patch, strict=True)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    if matrix is not None:
        offsets = offsets @ np.linalg.inv(matrix).T
    return torch.from_numpy(offsets / np.array(patch)).float()
