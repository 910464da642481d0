"""Sizes of the labelled structures of a case: volume, thickness, extent."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from plans.fingerprint import LabelFingerprint
from plans.geometry import Millimetres
from plans.regions import Regions, numbered
from textdiffseg.imaging.boxes import Box, joint

_MEASURED = 96  # a structure's box is thinned to about this many voxels a side before distances are taken
_PIECES = 8  # of that size, in which a structure too fine for the thinning is measured in full


def measure_labels(
    numbers: np.ndarray, spacing: Millimetres, regions: Regions | None = None
) -> tuple[LabelFingerprint, ...]:
    """Volume, thickness and extent of each label present in (D, H, W); of `regions` where labels overlap."""
    boxes = ndimage.find_objects(numbers)
    parts = numbered(regions) if regions else [(number,) for number in range(1, len(boxes) + 1)]
    found = []
    for label, held in enumerate(parts, start=1):
        box = joint(boxes[number - 1] for number in held if number <= len(boxes))
        if box is None:
            continue
        mask = np.isin(numbers[box], held) if len(held) > 1 else numbers[box] == held[0]
        voxels = int(np.count_nonzero(mask))
        found.append(
            LabelFingerprint(
                label=label,
                voxels=voxels,
                volume_mm3=voxels * float(np.prod(spacing)),
                thickness_mm=_thickness(mask, spacing),
                extent_mm=tuple(size * step for size, step in zip(mask.shape, spacing, strict=True)),
            )
        )
    return tuple(found)


def _thickness(mask: np.ndarray, spacing: Millimetres) -> float:
    """Twice the 90th percentile of the distance to the surface, in mm.

    Distances are taken between voxel centres, so half a voxel less than to the next voxel outside. On a thinned mask
    nothing is thinner than a step, so what is not much thicker there is measured in full.
    """
    steps = [max(1, round(size / _MEASURED)) for size in mask.shape]
    sampling: Sequence[float] = [step * length for step, length in zip(steps, spacing, strict=True)]
    depths = _depths(mask[tuple(slice(step // 2, None, step) for step in steps)], sampling)
    if len(depths) == 0 or (max(steps) > 1 and 2 * np.percentile(depths, 90) < 4 * max(sampling)):
        sampling = spacing
        depths = np.concatenate([_depths(piece, spacing, core) for piece, core in _pieces(mask)])
    return float(2 * np.percentile(depths, 90) - min(sampling))


def _depths(mask: np.ndarray, sampling: Sequence[float], core: Box = ()) -> np.ndarray:
    """Distances to the surface, of the mask's voxels in `core`; nothing beyond the array belongs to it."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sampling)[1:-1, 1:-1, 1:-1]
    return distance[core][mask[core]]


def _pieces(mask: np.ndarray) -> Iterator[tuple[np.ndarray, Box]]:
    """Cubes about voxels spread over a mask, and the middle of each, where no cut through the mask is felt."""
    places = np.flatnonzero(mask)
    for place in places[np.linspace(0, len(places) - 1, _PIECES).astype(int)]:
        centre = np.unravel_index(place, mask.shape)
        low = [max(0, at - _MEASURED // 2) for at in centre]
        piece = mask[tuple(slice(first, at + _MEASURED // 2) for first, at in zip(low, centre, strict=True))]
        reach = _MEASURED // 4
        core = (slice(max(0, at - first - reach), at - first + reach) for first, at in zip(low, centre, strict=True))
        yield piece, tuple(core)
