"""Scans with a tilted gantry, on a straight grid.

Slice k of such a scan is shifted within its plane by k t pixels against slice 0. On the straight grid the slices keep
their planes. So only the position within the plane is interpolated:

    y[k, i] = x[k, i - k t]
"""

import numpy as np

MIN_SHIFT_PIXELS = 0.5  # of the last slice against the first; below it each voxel has the same nearest voxel
STRAIGHTENED = (
    "The gantry was tilted, so its slices are shifted by {shift:.1f} mm in all. The scan was resampled to a straight "
    "grid. The mask has that grid. --dicom-seg and --rtstruct write it on the slices."
)


def straight_grid(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The image (D, H', W') on a straight grid, its affine, and the shift in mm of the last slice against the first.

    Args:
        array: (D, H, W) float32. Where the straight grid has no data, the lowest value is taken.
        affine: (4, 4), index to world in mm. Rows and columns are at right angles, slices may be shifted.
    """
    straight = affine.copy()
    last, total = len(array) - 1, np.zeros(3)
    for axis in (1, 2):
        edge = affine[:3, axis]
        per_slice = float(affine[:3, 0] @ edge / (edge @ edge))  # pixels
        straight[:3, 0] -= per_slice * edge
        total += per_slice * last * edge
        if abs(per_slice) * last >= MIN_SHIFT_PIXELS:
            shifts = per_slice * np.arange(len(array))
            straight[:3, 3] += shifts.min() * edge
            array = _shifted(array, shifts - shifts.min(), axis)
    return array, straight, float(np.linalg.norm(total))


def _shifted(array: np.ndarray, shifts: np.ndarray, axis: int) -> np.ndarray:
    """The array with each slice shifted by a number of pixels of at least 0, on a grid that holds all slices."""
    size = array.shape[axis]
    shape = [*array.shape]
    shape[axis] = size + int(np.ceil(shifts.max() - 1e-6))
    result = np.full(shape, array.min(), dtype=array.dtype)
    for plane, out, shift in zip(array, result, shifts, strict=True):
        place = np.arange(shape[axis]) - shift
        inside = np.flatnonzero((place >= -0.5) & (place <= size - 0.5))
        place = np.clip(place[inside], 0, size - 1)
        low = place.astype(int)
        high, share = np.minimum(low + 1, size - 1), (place - low).astype(array.dtype)
        if axis == 1:
            out[inside] = plane[low] * (1 - share[:, None]) + plane[high] * share[:, None]
        else:
            out[:, inside] = plane[:, low] * (1 - share) + plane[:, high] * share
    return result
