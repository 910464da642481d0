"""`Region`: where structures were found on a coarse grid, and the boxes that lie near them."""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from plans.geometry import Triple
from textdiffseg.imaging.boxes import Box

# Voxels of the coarse grid around what was found. A surface on that grid is off by one or two voxels; this is twice as
# much. In voxels, the margin suits scans of any scale.
MARGIN = 4


@dataclass(frozen=True)
class Region:
    """Voxels of a coarse grid where structures were found, with a margin of `MARGIN` voxels.

    The coarse grid covers the same extent as the volumes that are compared with it.
    """

    found: np.ndarray  # (d, h, w) bool

    def touches(self, box: Box, shape: Triple) -> bool:
        """Whether a box of a volume of `shape` (D, H, W) holds a voxel of the region. It may exceed the volume."""
        near = []
        for side, size, coarse in zip(box, shape, self.found.shape, strict=True):
            start = floor(side.start * coarse / size) - MARGIN
            stop = ceil(side.stop * coarse / size) + MARGIN
            near.append(slice(max(0, start), max(0, stop)))
        return bool(self.found[tuple(near)].any())
