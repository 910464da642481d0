"""A scan as an array with its place in space, and the project's one canonical orientation.

World coordinates are DICOM's and SimpleITK's: x grows to the patient's left, y to posterior, z to superior (LPS),
in mm. An image is canonical when its array axes (D, H, W) run towards superior, posterior and left.
"""

from dataclasses import dataclass

import numpy as np

from plans.errors import UserError
from plans.geometry import Millimetres, Triple, millimetres, triple
from textdiffseg.imaging.forms import NiftiForms


@dataclass(frozen=True)
class Geometry:
    """Where a grid of voxels lies."""

    shape: Triple
    affine: np.ndarray  # (4, 4): index (d, h, w, 1) -> world (x, y, z, 1) in mm
    forms: NiftiForms | None = None  # of the NIfTI file that it was read from; a mask on this grid is written with them

    @property
    def spacing(self) -> Millimetres:
        """Distance in mm between neighbours along D, H, W."""
        return millimetres(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    def matches(self, other: "Geometry", tolerance: float = 0.5) -> bool:
        """Whether both have the same shape and the other's corners lie within `tolerance` voxels of these.

        Within half a voxel along every axis the nearest voxel of one grid is the same one of the other, so that nothing
        needs resampling.
        """
        if self.shape != other.shape:
            return False
        corners = np.array([[d, h, w, 1] for d in (0, 1) for h in (0, 1) for w in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(self.shape) - 1
        apart = np.linalg.solve(self.affine, (other.affine - self.affine) @ corners.T)
        return bool(np.abs(apart[:3]).max() < tolerance)


@dataclass(frozen=True)
class Volume:
    """An image or a label map: array (C, D, H, W), label maps with C = 1."""

    array: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()  # what the user has to know of its place in space

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not lie on the grid {self.geometry.shape}")


@dataclass(frozen=True)
class Orientation:
    """How an array was turned to the canonical orientation: axes permuted, then some reversed."""

    permutation: Triple  # canonical axis i was axis permutation[i]
    flips: tuple[int, ...]  # canonical axes that were reversed

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., D, H, W) of the scan to canonical; a view."""
        lead = tuple(range(array.ndim - 3))
        turned = array.transpose(*lead, *(len(lead) + axis for axis in self.permutation))
        return np.flip(turned, axis=tuple(len(lead) + axis for axis in self.flips))

    def undo(self, array: np.ndarray) -> np.ndarray:
        """(..., D, H, W) canonical to the scan's own orientation; a view."""
        lead = tuple(range(array.ndim - 3))
        turned = np.flip(array, axis=tuple(len(lead) + axis for axis in self.flips))
        return turned.transpose(*lead, *(len(lead) + int(axis) for axis in np.argsort(self.permutation)))


def orientation_of(geometry: Geometry) -> Orientation:
    """The quarter turns that bring a grid as near to canonical as whole axes allow."""
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    toward = directions[::-1]  # rows superior (z), posterior (y), left (x); columns the array's axes
    permutation, left = [0, 0, 0], toward.copy()
    for _ in range(3):
        row, axis = np.unravel_index(np.nanargmax(np.abs(left)), left.shape)
        permutation[row] = int(axis)
        left[row, :] = left[:, axis] = np.nan
    flips = tuple(row for row in range(3) if toward[row, permutation[row]] < 0)
    return Orientation(triple(permutation), flips)


def to_canonical(volume: Volume) -> tuple[Volume, Orientation]:
    """Turn a volume to the canonical orientation; the array is a view, its world coordinates stay."""
    orientation = orientation_of(volume.geometry)
    turn = np.eye(4)
    turn[:3, :3] = 0
    shape = triple(volume.geometry.shape[axis] for axis in orientation.permutation)
    for row, axis in enumerate(orientation.permutation):
        turn[axis, row] = -1 if row in orientation.flips else 1
        turn[axis, 3] = shape[row] - 1 if row in orientation.flips else 0
    geometry = Geometry(shape, volume.geometry.affine @ turn)
    return Volume(orientation.apply(volume.array), geometry, volume.notes), orientation


def describe(geometry: Geometry) -> str:
    """A grid in words, axes in the file's own order (x, y, z)."""
    numbers = {
        "size": geometry.shape[::-1],
        "spacing": np.round(geometry.spacing[::-1], 4).tolist(),
        "origin": np.round(geometry.affine[:3, 3], 2).tolist(),
        "direction": np.round((geometry.affine[:3, 2::-1] / geometry.spacing[::-1]).ravel(), 3).tolist(),
    }
    return ", ".join(f"{name} {'/'.join(f'{value:g}' for value in values)}" for name, values in numbers.items())


def refuse_unusable(array: np.ndarray, source: str) -> None:
    """Raise `UserError` where float32 cannot hold a value; `source` names the scan."""
    usable = np.isfinite(array)
    if array.dtype == np.float64:
        usable &= np.abs(array) <= np.finfo(np.float32).max
    if bad := array.size - np.count_nonzero(usable):
        raise UserError(f"{source}: {bad} voxels are NaN or infinite in float32. Replace them by finite values.")


def refuse_flat(shape: Triple, source: str) -> None:
    """Raise `UserError` for a single slice; `source` names the scan."""
    if min(shape) < 2:
        raise UserError(
            f"{source}: a single slice ({'x'.join(str(size) for size in shape[::-1])} voxels); "
            "expected a 3D image of at least two slices along each axis."
        )
