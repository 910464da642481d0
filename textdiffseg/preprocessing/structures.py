"""Measurements of the labelled structures of a case: volume, thickness, extent."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from plans.fingerprint import LabelFingerprint
from plans.geometry import Millimetres
from plans.regions import Regions, numbered
from textdiffseg.imaging.boxes import Box, box_of
from textdiffseg.masks import mask_of

_MAX_EDGE_VOXELS = 96  # a structure's box is subsampled to about this size before distances are computed
_PIECES = 8  # cubes of that size, in which a structure too thin for subsampling is measured at full resolution


def measure_labels(
    label_map: np.ndarray, spacing: Millimetres, regions: Regions | None = None
) -> tuple[LabelFingerprint, ...]:
    """Volume, thickness and extent of each label that has voxels.

    Args:
        label_map: label numbers (D, H, W), or value numbers where labels overlap; negative is ignored.
        spacing: mm, (D, H, W).
        regions: for each overlapping label its values in the label file; None: labels do not overlap.
    """
    boxes = ndimage.find_objects(label_map)
    members = numbered(regions) if regions else [(number,) for number in range(1, len(boxes) + 1)]
    measured = []
    for label, label_values in enumerate(members, start=1):
        box = box_of(boxes, label_values)
        if box is None:
            continue
        mask = mask_of(label_map[box], label_values)
        voxels = int(np.count_nonzero(mask))
        measured.append(
            LabelFingerprint(
                label=label,
                voxels=voxels,
                volume_mm3=voxels * float(np.prod(spacing)),
                thickness_mm=_thickness(mask, spacing),
                extent_mm=tuple(size * step for size, step in zip(mask.shape, spacing, strict=True)),
            )
        )
    return tuple(measured)


def _thickness(mask: np.ndarray, spacing: Millimetres) -> float:
    """The thickness in mm: twice the 90th percentile of the distance to the surface.

    Distances run between voxel centres, so one voxel is subtracted from the double distance. In a subsampled mask no
    structure appears thinner than one step. A structure that is not much thicker is measured at full resolution.
    """
    steps = [max(1, round(size / _MAX_EDGE_VOXELS)) for size in mask.shape]
    sampling: Sequence[float] = [step * length for step, length in zip(steps, spacing, strict=True)]
    depths = _depths(mask[tuple(slice(step // 2, None, step) for step in steps)], sampling)
    if len(depths) == 0 or (max(steps) > 1 and 2 * np.percentile(depths, 90) < 4 * max(sampling)):
        sampling = spacing
        depths = np.concatenate([_depths(piece, spacing, core) for piece, core in _pieces(mask)])
    return float(2 * np.percentile(depths, 90) - min(sampling))


def _depths(mask: np.ndarray, sampling: Sequence[float], core: Box = ()) -> np.ndarray:
    """The distances to the surface of the mask's voxels in `core`. Voxels beyond the array count as outside."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sampling)[1:-1, 1:-1, 1:-1]
    return distance[core][mask[core]]


def _pieces(mask: np.ndarray) -> Iterator[tuple[np.ndarray, Box]]:
    """Cubes around voxels spread over a mask, each with its core. In the core, distances do not depend on the cut."""
    voxels = np.flatnonzero(mask)
    half, quarter = _MAX_EDGE_VOXELS // 2, _MAX_EDGE_VOXELS // 4
    for voxel in voxels[np.linspace(0, len(voxels) - 1, _PIECES).astype(int)]:
        centre = np.unravel_index(voxel, mask.shape)
        low = [max(0, c - half) for c in centre]
        piece = mask[tuple(slice(first, c + half) for first, c in zip(low, centre, strict=True))]
        core = (slice(max(0, c - first - quarter), c - first + quarter) for first, c in zip(low, centre, strict=True))
        yield piece, tuple(core)
