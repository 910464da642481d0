"""Resampling as one matrix per axis.

Spline interpolation is linear and separable: y = M_D x_D M_H x_H M_W x_W x, where M (m, n) is what
`scipy.ndimage.zoom` does to the unit vectors of n voxels. Applying the matrices axis by axis equals scipy's zoom of the
whole volume at a fraction of its time and memory. Grids cover the same extent (scipy's `grid_mode`), as nnU-Net's do.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from scipy import ndimage

from plans.records import Voxels

NO_AXIS: Mapping[int, int] = {}


@lru_cache(maxsize=64)
def spline_matrix(size: int, size_to: int, order: int) -> np.ndarray:
    """The matrix (size_to, size) float32 of spline interpolation of `order` along one axis, read-only."""
    matrix = ndimage.zoom(np.eye(size), (size_to / size, 1), order=order, mode="nearest", grid_mode=True)
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    matrix.flags.writeable = False
    return matrix


def resample(array: np.ndarray, shape: Voxels, order: int = 3, order_along: Mapping[int, int] = NO_AXIS) -> np.ndarray:
    """Resample an image (C, D, H, W) to (C, *shape), float32, clipped to each channel's own range.

    `order_along` gives single axes another order, e.g. {0: 0} for nnU-Net's separate z.
    """
    array = np.asarray(array, dtype=np.float32)
    if array.shape[1:] == tuple(shape):
        return np.array(array, order="C")
    matrices = _matrices(array.shape[1:], shape, order, order_along)
    result = np.empty((len(array), *shape), dtype=np.float32)
    for channel, out in zip(array, result, strict=True):
        _apply(matrices, channel, out)
        if order > 1:
            np.clip(out, channel.min(), channel.max(), out=out)
    return result


def resample_labels(
    labels: np.ndarray, shape: Voxels, order: int = 1, order_along: Mapping[int, int] = NO_AXIS
) -> np.ndarray:
    """Resample label numbers (D, H, W), -1 where ignored, to `shape`; same dtype.

    Each label's mask is interpolated inside its bounding box alone and the largest value wins; background's
    is what the labels leave of 1. Ties go to the label (nnU-Net's threshold of at least 0.5). Ignored voxels are
    one more label, which wins its ties: what is half unknown is unknown.
    """
    if labels.shape == tuple(shape):
        return np.array(labels, order="C")
    matrices = _matrices(labels.shape, shape, order, order_along, keep_identity=True)
    result = np.zeros(shape, dtype=labels.dtype)
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(labels), start=1) if box]
    if labels.min(initial=0) < 0:
        boxes += [(-1, box) for box in ndimage.find_objects((labels < 0).view(np.int8))]
    if not boxes:
        return result
    union = tuple(
        slice(min(box[axis].start for _, box in boxes), max(box[axis].stop for _, box in boxes)) for axis in range(3)
    )
    window, foreground = _interpolated(matrices, labels[union] != 0, union)
    if foreground is None:
        return result
    best, winner = 1 - foreground, result[window]
    offset = [part.start for part in window]
    for number, box in boxes:
        place, value = _interpolated(matrices, labels[box] == number, box)
        if value is None:
            continue
        local = tuple(slice(part.start - o, part.stop - o) for part, o in zip(place, offset, strict=True))
        wins = (value >= best[local]) & (value > 0)
        best[local][wins] = value[wins]
        winner[local][wins] = number
    return result


def probabilities_to_labels(probabilities: Iterable[np.ndarray], shape: Voxels) -> np.ndarray:
    """The most probable class (int16) at each voxel of `shape`; ties go to the first class.

    Classes (D, H, W) come one by one and are interpolated linearly one by one, so that the peak is three
    volumes of `shape` whatever the number of classes.
    """
    best, winner = None, np.zeros(shape, dtype=np.int16)
    for number, probability in enumerate(probabilities):
        value = resample(np.asarray(probability)[None], shape, order=1)[0]
        if best is None:
            best = value
            continue
        wins = value > best
        winner[wins] = number
        np.maximum(best, value, out=best)
    return winner


def probabilities_to_regions(probabilities: Iterable[np.ndarray], shape: Voxels) -> np.ndarray:
    """The last class (int16) with p > 0.5 at each voxel of `shape`, 0 where there is none (nnU-Net's rule for regions).

    Classes 1, 2, ... (D, H, W) come one by one and are interpolated linearly one by one.
    """
    last = np.zeros(shape, dtype=np.int16)
    for number, probability in enumerate(probabilities, start=1):
        last[resample(np.asarray(probability)[None], shape, order=1)[0] > 0.5] = number
    return last


def _matrices(shape, shape_to, order, order_along, keep_identity=False) -> list[np.ndarray | None]:
    """One matrix an axis; None where the axis keeps its size, unless `keep_identity`."""
    return [
        None if n == m and not keep_identity else spline_matrix(n, m, order if n != m else 0)
        for n, m, order in (
            (n, m, order_along.get(i, order)) for i, (n, m) in enumerate(zip(shape, shape_to, strict=True))
        )
    ]


def _apply(matrices: list[np.ndarray | None], volume: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Multiply (D, H, W) along each axis that has a matrix, those that shrink first."""
    axes = [axis for axis in range(3) if matrices[axis] is not None]
    axes.sort(key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1])
    for axis in axes:
        target = out if axis == axes[-1] else None
        volume = _multiply(matrices[axis], np.ascontiguousarray(volume), axis, target)
    return volume


def _multiply(matrix: np.ndarray, volume: np.ndarray, axis: int, out: np.ndarray | None) -> np.ndarray:
    shape = (*volume.shape[:axis], len(matrix), *volume.shape[axis + 1 :])
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    if axis == 0:
        np.matmul(matrix, volume.reshape(len(volume), -1), out=out.reshape(len(matrix), -1))
    elif axis == 1:
        np.matmul(matrix, volume, out=out)
    else:
        np.matmul(volume.reshape(-1, volume.shape[2]), matrix.T, out=out.reshape(-1, len(matrix)))
    return out


def _interpolated(matrices, mask: np.ndarray, box) -> tuple[tuple[slice, ...], np.ndarray | None]:
    """Interpolate a mask that is zero outside `box`: the box that it reaches, and its values there (None: none)."""
    place, parts = [], []
    for matrix, part in zip(matrices, box, strict=True):
        columns = matrix[:, part]
        rows = np.flatnonzero(columns.any(axis=1))
        if not len(rows):
            return (), None
        place.append(slice(int(rows[0]), int(rows[-1]) + 1))
        parts.append(np.ascontiguousarray(columns[place[-1]]))
    return tuple(place), _apply(parts, mask.astype(np.float32))
