"""The class of each voxel of a grid, from probabilities on another grid.

Classes are interpolated linearly, one by one. Only a running maximum and its class are kept. Probabilities may arrive
as slabs along the first axis, so that they are never in memory as a whole.
"""

from collections.abc import Callable, Iterator

import numpy as np

from plans.geometry import Triple
from textdiffseg.imaging.boxes import bounds, joint
from textdiffseg.imaging.resample import Matrices, footprint_of, matrices_between, reading

MAX_ROUNDING = 1e-3  # relative error of the sum of probabilities


class _Joined:
    """Probabilities (K, D, H, W) whose planes are in two arrays. A class is joined when it is read."""

    def __init__(self, before: np.ndarray, after: np.ndarray):
        self.before, self.after = before, after
        self.shape = (len(after), before.shape[1] + after.shape[1], *after.shape[2:])

    def __len__(self) -> int:
        return len(self.after)

    def __getitem__(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return np.concatenate((self.before[number], self.after[number]))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


Classes = np.ndarray | _Joined
"""Probabilities (K, D, H, W)."""

Choice = Callable[[Classes, Matrices], np.ndarray]
"""Function of probabilities and the matrices to another grid -> the class int16 of each voxel there."""


def most_probable(probabilities: Classes, matrices: Matrices) -> np.ndarray:
    """The most probable of K classes that sum to 1. A tie goes to the first class.

    A class is only computed in the footprint of its voxels with p >= 1/K. Elsewhere another class has a larger p. The
    first class is computed in the box of all other footprints, and wins outside it.
    """
    least = (1 - MAX_ROUNDING) / len(probabilities)
    winner = np.zeros(_shape_to(probabilities, matrices), dtype=np.int16)
    footprints = [
        (number, footprint)
        for number in range(1, len(probabilities))
        if (footprint := footprint_of(matrices, bounds(probabilities[number] >= least)))
    ]
    box = joint(footprint.target for _, footprint in footprints)
    if box is None:
        return winner
    first = reading(matrices, box)
    best = np.zeros(winner.shape, dtype=np.float32)
    best[box] = first.interpolate(probabilities[0][first.source])
    for number, footprint in footprints:
        value = footprint.interpolate(probabilities[number][footprint.source])
        winner[footprint.target][value > best[footprint.target]] = number
        np.maximum(best[footprint.target], value, out=best[footprint.target])
    return winner


def last_above_half(probabilities: Classes, matrices: Matrices) -> np.ndarray:
    """The last class with p > 0.5, else 0 (nnU-Net's rule for regions). `probabilities` are those of classes 1, 2, ...

    Each class is computed in the footprint of its voxels with p > 0.5.
    """
    last = np.zeros(_shape_to(probabilities, matrices), dtype=np.int16)
    for number, probability in enumerate(probabilities, start=1):
        if footprint := footprint_of(matrices, bounds(probability > 0.5)):
            last[footprint.target][footprint.interpolate(probability[footprint.source]) > 0.5] = number
    return last


def _shape_to(probabilities: Classes, matrices: Matrices) -> Triple:
    d, h, w = (
        size if matrix is None else len(matrix) for size, matrix in zip(probabilities.shape[1:], matrices, strict=True)
    )
    return d, h, w


class SlabClasses:
    """The class of each voxel of a grid, from slabs of probabilities on another grid."""

    def __init__(self, shape: Triple, shape_to: Triple, choose: Choice):
        """`shape`: of the probabilities' grid. `shape_to`: of the grid of the classes."""
        self.classes = np.zeros(shape_to, dtype=np.int16)
        self._along, *self._within = matrices_between(shape, shape_to, order=1)
        self._choose, self._first, self._done = choose, 0, 0
        self._kept: np.ndarray | None = None  # planes that are needed again

    def add(self, probabilities: np.ndarray) -> None:
        """Add the next planes (K, D, H, W), and compute all planes of the result that need no further ones."""
        planes: Classes = probabilities if self._kept is None else _Joined(self._kept, probabilities)
        stop = self._first + planes.shape[1]
        if self._along is None:
            self.classes[self._first : stop] = self._choose(planes, [None, *self._within])
            self._first = stop
            return
        ready = self._done + int(np.searchsorted(self._last_read(self._done), stop))
        if ready > self._done:
            along = np.ascontiguousarray(self._along[self._done : ready, self._first : stop])
            self.classes[self._done : ready] = self._choose(planes, [along, *self._within])
            self._done = ready
        needed = stop if ready == len(self._along) else min(stop, int(np.flatnonzero(self._along[ready])[0]))
        self._kept = np.stack([planes[number][needed - self._first :] for number in range(len(planes))])
        self._first = needed

    def _last_read(self, row: int) -> np.ndarray:
        """The last input plane that each plane of the result reads, from plane `row` on."""
        assert self._along is not None, "expected a matrix along the slabs"
        rows = self._along[row:]
        return rows.shape[1] - 1 - np.argmax(rows[:, ::-1] != 0, axis=1)
