"""A scan as an array with its grid in space, and the canonical orientation.

World coordinates are LPS in mm, as in DICOM and SimpleITK: x increases to the patient's left, y to posterior, z to
superior. The array axes (D, H, W) of a canonical image run towards superior, posterior and left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plans.errors import UserError, printable
from plans.geometry import Millimetres, Triple, millimetres, triple
from textdiffseg.imaging.forms import NiftiForms

# notes on a channel
MISSING = "Channel {name} is missing."
CONSTANT = "Channel {name} has one value in all voxels, so it shows nothing. Check how the scan was exported."


@dataclass(frozen=True)
class Geometry:
    """A grid of voxels and its place in space."""

    shape: Triple
    affine: np.ndarray  # (4, 4): index (d, h, w, 1) -> world (x, y, z, 1) in mm
    forms: NiftiForms | None = None  # of the scan's NIfTI file or affine; masks are written with the same forms

    @property
    def spacing(self) -> Millimetres:
        """The distance in mm between neighbours along (D, H, W)."""
        return millimetres(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in ml."""
        return float(np.prod(self.spacing)) / 1000

    def matches(self, other: "Geometry", tolerance: float = 0.5) -> bool:
        """Whether both grids have the same shape and their corners lie within `tolerance` voxels of each other.

        Within half a voxel, each voxel has the same nearest voxel in the other grid. So nothing needs resampling.
        """
        if self.shape != other.shape:
            return False
        corners = np.array([[d, h, w, 1] for d in (0, 1) for h in (0, 1) for w in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(self.shape) - 1
        apart = np.linalg.solve(self.affine, (other.affine - self.affine) @ corners.T)
        return bool(np.abs(apart[:3]).max() < tolerance)

    def is_moved(self, other: "Geometry") -> bool:
        """Whether both grids have the same shape, spacing and directions. So at most their places differ."""
        return self.shape == other.shape and np.allclose(self.affine[:3, :3], other.affine[:3, :3], atol=1e-3)


@dataclass(frozen=True)
class Volume:
    """An image or a label map on its grid. The array is (C, D, H, W); a label map has C = 1."""

    array: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()  # for the user, about its place in space
    missing: tuple[int, ...] = ()  # the numbers of channels that the scan lacks; their values are 0

    def __post_init__(self) -> None:
        # A note may quote a header. It is printed, and written to a record.
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))
        if self.array.shape[1:] != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not fit the grid {self.geometry.shape}")

    @property
    def first_channel(self) -> int:
        """The number of the first channel that the scan has."""
        return next(number for number in range(len(self.array)) if number not in self.missing)


@dataclass(frozen=True)
class Orientation:
    """The turn of an array to the canonical orientation: a permutation of axes, then flips."""

    permutation: Triple  # canonical axis i was axis permutation[i]
    flips: tuple[int, ...]  # canonical axes that were reversed

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A canonical view of an array (..., D, H, W) in the scan's own orientation."""
        lead = tuple(range(array.ndim - 3))
        turned = array.transpose(*lead, *(len(lead) + axis for axis in self.permutation))
        return np.flip(turned, axis=tuple(len(lead) + axis for axis in self.flips))

    def undo(self, array: np.ndarray) -> np.ndarray:
        """A view of a canonical array (..., D, H, W) in the scan's own orientation."""
        lead = tuple(range(array.ndim - 3))
        turned = np.flip(array, axis=tuple(len(lead) + axis for axis in self.flips))
        return turned.transpose(*lead, *(len(lead) + int(axis) for axis in np.argsort(self.permutation)))


def orientation_of(geometry: Geometry) -> Orientation:
    """The permutation and flips that bring a grid nearest to the canonical orientation."""
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    toward = directions[::-1]  # rows superior (z), posterior (y), left (x); columns the array's axes
    permutation, remaining = [0, 0, 0], toward.copy()
    for _ in range(3):
        row, axis = np.unravel_index(np.nanargmax(np.abs(remaining)), remaining.shape)
        permutation[row] = int(axis)
        remaining[row, :] = remaining[:, axis] = np.nan
    flips = tuple(row for row in range(3) if toward[row, permutation[row]] < 0)
    return Orientation(triple(permutation), flips)


def to_canonical(volume: Volume) -> tuple[Volume, Orientation]:
    """The volume in canonical orientation, and its turn. The array is a view; world coordinates stay."""
    orientation = orientation_of(volume.geometry)
    turn = np.eye(4)
    turn[:3, :3] = 0
    shape = triple(volume.geometry.shape[axis] for axis in orientation.permutation)
    for row, axis in enumerate(orientation.permutation):
        turn[axis, row] = -1 if row in orientation.flips else 1
        turn[axis, 3] = shape[row] - 1 if row in orientation.flips else 0
    geometry = Geometry(shape, volume.geometry.affine @ turn)
    return Volume(orientation.apply(volume.array), geometry, volume.notes, volume.missing), orientation


def in_file_order(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    """The array (D, H, W) with the axes of a file's array, (z, y, x), and its grid.

    The forms have the file's axes in the order (x, y, z). An array of nibabel or MONAI has this order, too.
    """
    if geometry.forms is None:
        return array, geometry
    first = np.abs(geometry.forms.affine[:3, 0] @ geometry.affine[:3, :3]) / geometry.spacing
    if first[2] >= first[0]:
        return array, geometry
    return array.transpose(), Geometry(triple(geometry.shape[::-1]), geometry.affine[:, [2, 1, 0, 3]], geometry.forms)


def describe(geometry: Geometry) -> str:
    """A grid in words, with axes in the order of files (x, y, z)."""
    numbers = {
        "size": geometry.shape[::-1],
        "spacing": np.round(geometry.spacing[::-1], 4).tolist(),
        "origin": np.round(geometry.affine[:3, 3], 2).tolist(),
        "direction": np.round((geometry.affine[:3, 2::-1] / geometry.spacing[::-1]).ravel(), 3).tolist(),
    }
    return ", ".join(f"{name} {'/'.join(f'{value:g}' for value in values)}" for name, values in numbers.items())


def notes_on_channels(volume: Volume, names: Sequence[str]) -> tuple[str, ...]:
    """Notes on channels that are missing, or that show nothing. `names`: those of all channels."""
    notes = []
    for number, (name, channel) in enumerate(zip(names, volume.array, strict=True)):
        if number in volume.missing:
            notes.append(MISSING.format(name=name))
        elif channel.min() == channel.max():
            notes.append(CONSTANT.format(name=name))
    return tuple(notes)


def grid_advice(mask: Geometry, scan: Geometry) -> str:
    """What to do about a mask whose grid differs from that of its scan."""
    if not mask.is_moved(scan):
        return "Resample the mask to the scan."
    moved = float(np.linalg.norm(mask.affine[:3, 3] - scan.affine[:3, 3]))
    return (
        f"Only its place differs, by {moved:.4g} mm. If the voxels of both correspond, copy the scan's origin to the "
        "mask. If they do not, resample the mask to the scan."
    )


def refuse_unusable(array: np.ndarray, source: str) -> None:
    """Raise `UserError` for values that float32 cannot hold. `source` is the scan's name in messages."""
    if array.dtype.kind in "iu":
        return
    usable = np.isfinite(array)
    if array.dtype.kind == "f" and np.finfo(array.dtype).max > np.finfo(np.float32).max:
        usable &= np.abs(array) <= np.finfo(np.float32).max
    if bad := array.size - np.count_nonzero(usable):
        raise UserError(f"{source}: {bad} voxels are NaN or infinite in float32. Replace them with finite values.")


def refuse_flat(shape: Triple, source: str) -> None:
    """Raise `UserError` for a single slice. `source` is the scan's name in messages."""
    if min(shape) < 2:
        raise UserError(
            f"{source}: a single slice ({'x'.join(str(size) for size in shape[::-1])} voxels). Expected a 3D image "
            "with at least two voxels along each axis."
        )
