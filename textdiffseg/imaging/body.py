"""The box around the body in a CT scan.

The body is what is denser than air. It is searched for on a coarse copy of the scan, which holds every n-th voxel.
There, an opening removes thin structures, e.g. tubes and the cover of a table. Small components are dropped. Both
legs, or an arm beside the trunk, are large enough to stay.

An error must rather keep air than cut the body.
"""

import numpy as np
from scipy import ndimage

from plans.geometry import Millimetres
from textdiffseg.imaging.boxes import Box, joint

MAX_AIR_HU = -500.0  # halfway between air and water
MARGIN_MM = 20.0  # around the body: ears, nose and skin, which the opening may remove
MAX_SAMPLES = 100_000  # voxels that the threshold is taken from
COARSE_MM = 5.0  # distance between voxels of the coarse copy; coarser axes are neither thinned nor opened
MIN_COARSE_EDGE = 32  # voxels along each axis of the coarse copy, if the scan has as many
MIN_COMPONENT_SHARE = 0.01  # of the largest component's voxels; smaller components are dropped


def body_box(image: np.ndarray, spacing: Millimetres) -> Box | None:
    """The box around the body with a margin, cut to the scan. None: there is no air, or no body was found.

    Padding counts as air, whatever its value. A value is padding if two of the scan's eight corners share it exactly.

    Args:
        image: CT (D, H, W) in HU.
        spacing: in mm (D, H, W).
    """
    limits = [max(1, size // MIN_COARSE_EDGE) for size in image.shape]
    steps = [max(1, min(int(COARSE_MM / mm), limit)) for mm, limit in zip(spacing, limits, strict=True)]
    coarse = image[tuple(slice(None, None, step) for step in steps)]
    scanned = ~np.isin(coarse, _padding_values(image))
    if coarse.min() > MAX_AIR_HU or not scanned.any():
        return None
    dense = scanned & (coarse > min(MAX_AIR_HU, _otsu_threshold(coarse[scanned][:: coarse.size // MAX_SAMPLES + 1])))
    thinnable = [mm * step <= COARSE_MM for mm, step in zip(spacing, steps, strict=True)]
    body = joint(_large_components(_opened(dense, thinnable)))
    if body is None:
        return None
    sides = []
    for side, step, mm, size in zip(body, steps, spacing, image.shape, strict=True):
        margin = int(np.ceil(MARGIN_MM / mm)) + step
        sides.append(slice(max(0, side.start * step - margin), min(size, side.stop * step + margin)))
    return tuple(sides)


def _padding_values(image: np.ndarray) -> np.ndarray:
    """The values that two or more of the eight corners share."""
    values, counts = np.unique(image[np.ix_((0, -1), (0, -1), (0, -1))], return_counts=True)
    return values[counts > 1]


def _otsu_threshold(values: np.ndarray) -> float:
    """The threshold that parts the values into two classes with the largest variance between them (Otsu 1979).

    In a scan whose values are shifted down, e.g. by a second subtraction of 1024, it lies below `MAX_AIR_HU`.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    below = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)
    mean_below, mean_above = sums[:-1] / below, (sums[-1] - sums[:-1]) / below[::-1]
    between = below * below[::-1] * (mean_above - mean_below) ** 2
    return float(ordered[between.argmax()]) if between.size else float("inf")


def _opened(mask: np.ndarray, axes: list[bool]) -> np.ndarray:
    """The mask without structures of one or two voxels along `axes`. The edge of the scan erodes nothing."""
    neighbours = np.zeros((3, 3, 3), dtype=bool)
    neighbours[1, 1, 1] = True
    for axis in np.flatnonzero(axes):
        np.moveaxis(neighbours, axis, 0)[:, 1, 1] = True
    kept = ndimage.binary_erosion(mask, neighbours, border_value=1)
    return ndimage.binary_dilation(kept, neighbours)


def _large_components(mask: np.ndarray) -> list[Box]:
    """The boxes of the components that have at least `MIN_COMPONENT_SHARE` of the largest one's voxels."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    return [box for box, size in zip(boxes, sizes, strict=True) if size >= MIN_COMPONENT_SHARE * sizes.max()]
