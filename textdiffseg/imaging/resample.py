"""Resampling as one matrix per axis.

Spline interpolation is linear and separable: y = M_D x_D M_H x_H M_W x_W x, where M (m, n) is what
`scipy.ndimage.zoom` does to the unit vectors of n voxels. Applying the matrices axis by axis equals scipy's zoom of the
whole volume at a fraction of its time and memory. Grids cover the same extent (scipy's `grid_mode`), as nnU-Net's do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from plans.geometry import Triple
from textdiffseg.imaging.boxes import Box, joint

Matrices = Sequence[np.ndarray | None]  # one an axis; None where the axis keeps its size

NO_AXIS: Mapping[int, int] = {}
NEGLIGIBLE = 1e-12  # entries of a matrix below it are zero: among them are denormals, which are slow to multiply with
ROUNDING = 1e-3  # that sums of probabilities are off by at most, relative


@lru_cache(maxsize=64)
def spline_matrix(size: int, size_to: int, order: int) -> np.ndarray:
    """The matrix (size_to, size) float32 of spline interpolation of `order` along one axis, read-only."""
    matrix = ndimage.zoom(np.eye(size), (size_to / size, 1), order=order, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    matrix.flags.writeable = False
    return matrix


def resample(array: np.ndarray, shape: Triple, order: int = 3, order_along: Mapping[int, int] = NO_AXIS) -> np.ndarray:
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
    labels: np.ndarray, shape: Triple, order: int = 1, order_along: Mapping[int, int] = NO_AXIS
) -> np.ndarray:
    """Resample label numbers (D, H, W), -1 where ignored, to `shape`; same dtype.

    Each label's mask is interpolated inside its bounding box alone and the largest value wins; background's
    is what the labels leave of 1. Ties go to the label (nnU-Net's threshold of at least 0.5). Ignored voxels are
    one more label, which wins its ties: what is half unknown is unknown.
    """
    if labels.shape == tuple(shape):
        return np.array(labels, order="C")
    matrices = _matrices(labels.shape, shape, order, order_along)
    result = np.zeros(shape, dtype=labels.dtype)
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(labels), start=1) if box]
    if labels.min(initial=0) < 0:
        boxes += [(-1, box) for box in ndimage.find_objects((labels < 0).view(np.int8))]
    together = joint(box for _, box in boxes)
    if together is None:
        return result
    everything = _reach(matrices, together)
    if everything is None:
        return result
    window, winner = everything.place, result[everything.place]
    best = 1 - everything.interpolate(labels[everything.source] != 0)
    for number, box in boxes:
        reach = _reach(matrices, box)
        if reach is None:
            continue
        value = reach.interpolate(labels[reach.source] == number)
        local = tuple(
            slice(one.start - w.start, one.stop - w.start) for one, w in zip(reach.place, window, strict=True)
        )
        wins = (value >= best[local]) & (value > 0)
        best[local][wins] = value[wins]
        winner[local][wins] = number
    return result


def probabilities_to_labels(probabilities: np.ndarray | Sequence[np.ndarray], shape: Triple) -> np.ndarray:
    """The most probable of K classes (int16) at each voxel of `shape`; ties go to the first class.

    Classes (D, H, W), which sum to 1, are interpolated linearly one by one, each only as far as those of its voxels
    reach that hold 1/K or more: elsewhere another class has more.
    """
    matrices = _matrices(probabilities[0].shape, shape, 1)
    best, winner = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int16)
    least = (1 - ROUNDING) / len(probabilities)
    for number, probability in enumerate(probabilities):
        for reach in _reaches(matrices, probability >= least):
            value = reach.interpolate(probability[reach.source])
            winner[reach.place][value > best[reach.place]] = number
            np.maximum(best[reach.place], value, out=best[reach.place])
    return winner


def probabilities_to_regions(probabilities: np.ndarray | Sequence[np.ndarray], shape: Triple) -> np.ndarray:
    """The last class (int16) with p > 0.5 at each voxel of `shape`, 0 where there is none (nnU-Net's rule for regions).

    Classes 1, 2, ... (D, H, W) are interpolated linearly one by one, as far as those of their voxels reach.
    """
    matrices = _matrices(probabilities[0].shape, shape, 1)
    last = np.zeros(shape, dtype=np.int16)
    for number, probability in enumerate(probabilities, start=1):
        for reach in _reaches(matrices, probability > 0.5):
            last[reach.place][reach.interpolate(probability[reach.source]) > 0.5] = number
    return last


def _matrices(shape: Triple, shape_to: Triple, order: int, order_along: Mapping[int, int] = NO_AXIS) -> Matrices:
    """One matrix an axis; None where the axis keeps its size."""
    return [
        None if n == m else spline_matrix(n, m, order_along.get(axis, order))
        for axis, (n, m) in enumerate(zip(shape, shape_to, strict=True))
    ]


def _apply(matrices: Matrices, volume: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Multiply (D, H, W) along each axis that has a matrix, those that shrink first."""
    steps = [(axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    steps.sort(key=lambda step: step[1].shape[0] / step[1].shape[1])
    for number, (axis, matrix) in enumerate(steps, start=1):
        target = out if number == len(steps) else None
        volume = _multiply(matrix, np.ascontiguousarray(volume), axis, target)
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


@dataclass(frozen=True)
class _Footprint:
    """The voxels that some voxels of the grid resampled from have a share in."""

    place: Box  # their box on the grid resampled to
    source: Box  # the box of all that has a share in it
    matrices: Matrices  # from the one to the other

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """float32 values on `place` of those on `source`."""
        return _apply(self.matrices, values.astype(np.float32))


def _reaches(matrices: Matrices, mask: np.ndarray) -> list[_Footprint]:
    """One for a mask (D, H, W) that reaches a voxel at all, else none."""
    boxes = ndimage.find_objects(mask.view(np.int8))
    return [reach for box in boxes if (reach := _reach(matrices, box)) is not None]


def _reach(matrices: Matrices, box: Box) -> _Footprint | None:
    """How far a box reaches; None where it is so small that no voxel reads it."""
    place: list[slice] = []
    source: list[slice] = []
    parts: list[np.ndarray | None] = []
    for matrix, part in zip(matrices, box, strict=True):
        if matrix is None:
            place.append(part)
            source.append(part)
            parts.append(None)
            continue
        rows = _extent(np.any(matrix[:, part], axis=1))
        if rows is None:
            return None
        columns = _extent(np.any(matrix[rows], axis=0))
        assert columns is not None, "a row that reads the box has columns that are not zero"
        place.append(rows)
        source.append(columns)
        parts.append(np.ascontiguousarray(matrix[rows, columns]))
    return _Footprint(tuple(place), tuple(source), parts)


def _extent(hit: np.ndarray) -> slice | None:
    """From the first to the last that is hit."""
    found = np.flatnonzero(hit)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else None
