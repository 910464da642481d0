"""Resampling with one matrix per axis.

Spline interpolation is linear and separable:

    y = M_D x_D M_H x_H M_W x_W x

Each M (m, n) is the result of `scipy.ndimage.zoom` for the unit vectors of n voxels. Applying the matrices axis by
axis equals scipy's zoom of the whole volume, but needs a fraction of its time and memory. Both grids cover the same
extent (scipy's `grid_mode`), as in nnU-Net.

A spline depends on all voxels of an axis. A box of a scan is therefore resampled with `SPLINE_MARGIN` voxels around
it. The result is then that of the whole scan, at the same places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from plans.geometry import Triple
from textdiffseg.imaging.boxes import Box, bounds, joint

Matrices = Sequence[np.ndarray | None]  # one per axis; None if the axis keeps its size
Products = Callable[[Matrices, np.ndarray, np.ndarray], np.ndarray]
"""Function of matrices, a volume (D, H, W) and the array for the result -> their product, in that array."""

NO_AXIS: Mapping[int, int] = {}
MIN_ENTRY = 1e-12  # smaller entries of a matrix become zero: some are denormals, which are slow to multiply
SPLINE_MARGIN = 12  # voxels; a cubic spline's weights fall to 0.27 per voxel, here to 1e-7


@lru_cache(maxsize=64)
def spline_matrix(size: int, size_to: int, order: int, before: int = 0, after: int = 0) -> np.ndarray:
    """The matrix (size_to, size) float32 of spline interpolation of `order` along one axis, read-only.

    The first `before` and the last `after` of the `size` voxels are a margin: they are read, but not resampled.
    """
    voxels = np.eye(size)
    if before or after:
        step = (size - before - after) / size_to  # between new voxels, in old voxels
        first = before + step / 2 - 0.5
        matrix = ndimage.affine_transform(
            voxels, (step, 1), (first, 0), output_shape=(size_to, size), order=order, mode="nearest"
        )
    else:
        matrix = ndimage.zoom(voxels, (size_to / size, 1), order=order, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < MIN_ENTRY] = 0
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    matrix.flags.writeable = False
    return matrix


def apply_matrices(matrices: Matrices, volume: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The product of a volume (D, H, W) and one matrix per axis, in `out`."""
    if all(matrix is None for matrix in matrices):
        out[...] = volume
        return out
    return _apply(matrices, volume, out)


def resample(
    array: np.ndarray,
    shape: Triple,
    order: int = 3,
    order_along: Mapping[int, int] = NO_AXIS,
    inside: Box | None = None,
    limits: tuple[float, float] | None = None,
    out: np.ndarray | None = None,
    products: Products = apply_matrices,
) -> np.ndarray:
    """The image (C, *shape) float32, resampled from (C, D, H, W). Each channel is clipped to its own range.

    Args:
        array: (C, D, H, W).
        shape: in voxels (D, H, W).
        order: of the spline.
        order_along: another order for single axes, e.g. {0: 0} for nnU-Net's separate z.
        inside: the box of `array` that is resampled; the voxels around it are only read. None: all of it.
        limits: the range to clip to, in place of each channel's own.
        out: (C, *shape) float32 that receives the result.
        products: applies the matrices (`imaging.on_device` has others).
    """
    array = np.asarray(array, dtype=np.float32)
    matrices, read = _matrices_inside(array.shape[1:], inside, shape, order, order_along)
    array = array[(slice(None), *read)]
    result = np.empty((len(array), *shape), dtype=np.float32) if out is None else out
    if all(matrix is None for matrix in matrices):
        result[...] = array
        return result
    for channel, target in zip(array, result, strict=True):
        products(matrices, channel, target)
        if order > 1:
            np.clip(target, *(limits or (channel.min(), channel.max())), out=target)
    return result


def resample_labels(
    labels: np.ndarray, shape: Triple, order: int = 1, order_along: Mapping[int, int] = NO_AXIS
) -> np.ndarray:
    """The label map (*shape), resampled from label numbers (D, H, W), -1 ignored; same dtype.

    Each label's mask is interpolated, and the label with the largest value wins. Background's value is 1 minus the
    sum of the labels' values. A tie goes to the label (nnU-Net's threshold of at least 0.5). Ignored voxels are
    treated as one more label, which wins every tie.

    Only the footprint of a label's bounding box is computed.
    """
    if labels.shape == tuple(shape):
        return np.array(labels, order="C")
    matrices = matrices_between(labels.shape, shape, order, order_along)
    result = np.zeros(shape, dtype=labels.dtype)
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(labels), start=1) if box]
    if (ignored := bounds(labels < 0)) is not None:
        boxes.append((-1, ignored))
    foreground = joint(box for _, box in boxes)
    if foreground is None:
        return result
    foreground_footprint = footprint_of(matrices, foreground)
    if foreground_footprint is None:
        return result
    window, winner = foreground_footprint.target, result[foreground_footprint.target]
    best = 1 - foreground_footprint.interpolate(labels[foreground_footprint.source] != 0)
    for number, box in boxes:
        footprint = footprint_of(matrices, box)
        if footprint is None:
            continue
        value = footprint.interpolate(labels[footprint.source] == number)
        local = tuple(
            slice(axis.start - w.start, axis.stop - w.start) for axis, w in zip(footprint.target, window, strict=True)
        )
        wins = (value >= best[local]) & (value > 0)
        best[local][wins] = value[wins]
        winner[local][wins] = number
    return result


def matrices_between(shape: Triple, shape_to: Triple, order: int, order_along: Mapping[int, int] = NO_AXIS) -> Matrices:
    """One matrix per axis; None if the axis keeps its size."""
    return [
        None if n == m else spline_matrix(n, m, order_along.get(axis, order))
        for axis, (n, m) in enumerate(zip(shape, shape_to, strict=True))
    ]


def _matrices_inside(
    shape: Triple, inside: Box | None, shape_to: Triple, order: int, order_along: Mapping[int, int]
) -> tuple[Matrices, Box]:
    """The matrices from a box of (D, H, W) to `shape_to`, and the voxels that they read.

    An axis that keeps its size, and the nearest neighbour, read the box. A spline reads the whole axis, as each of its
    coefficients depends on all voxels; the caller may cut the array to a margin before.
    """
    matrices, read = [], []
    for axis, (size, m, box) in enumerate(zip(shape, shape_to, inside or (slice(None),) * 3, strict=True)):
        axis_order, (start, stop, _) = order_along.get(axis, order), box.indices(size)
        same = stop - start == m
        first, last = (start, stop) if same or axis_order == 0 else (0, size)
        matrices.append(None if same else spline_matrix(last - first, m, axis_order, start - first, last - stop))
        read.append(slice(first, last))
    return matrices, tuple(read)


def _apply(matrices: Matrices, volume: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Multiply (D, H, W) along each axis that has a matrix. Axes that shrink come first, which saves work."""
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
class Footprint:
    """A box of output voxels, and the input voxels that their interpolation reads."""

    target: Box  # on the output grid
    source: Box  # all input voxels that `target` reads
    matrices: Matrices  # from `source` to `target`

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """The float32 values on `target`, interpolated from those on `source`."""
        return _apply(self.matrices, values.astype(np.float32))


def footprint_of(matrices: Matrices, box: Box | None) -> Footprint | None:
    """The footprint of a box; None without a box, and if no output voxel reads it."""
    if box is None:
        return None
    target: list[slice] = []
    for matrix, axis in zip(matrices, box, strict=True):
        rows = axis if matrix is None else _extent(np.any(matrix[:, axis], axis=1))
        if rows is None:
            return None
        target.append(rows)
    return reading(matrices, tuple(target))


def reading(matrices: Matrices, target: Box) -> Footprint:
    """The output voxels of a box `target`, with the input voxels that they read."""
    source: list[slice] = []
    cut: list[np.ndarray | None] = []
    for matrix, rows in zip(matrices, target, strict=True):
        columns = rows if matrix is None else _extent(np.any(matrix[rows], axis=0))
        assert columns is not None, "every output voxel reads at least one input voxel"
        source.append(columns)
        cut.append(None if matrix is None else np.ascontiguousarray(matrix[rows, columns]))
    return Footprint(target, tuple(source), cut)


def _extent(flags: np.ndarray) -> slice | None:
    """The slice from the first to the last True; None if all are False."""
    indices = np.flatnonzero(flags)
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else None
