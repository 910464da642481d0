"""Structure sets of radiotherapy (PS3.3, A.19): outlines on the slices of a scan.

A voxel belongs to a structure if a ray from its centre crosses the outlines of its slice an odd number of times. So an
outline inside another one is a hole.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import directed_hausdorff

from plans.errors import UserError
from textdiffseg.imaging.grids import MAX_ORIGIN_MM
from textdiffseg.imaging.sources.dicom.coverage import MAX_OFFSET_VOXELS, DrawnSlice, distance_from_scan, refuse_unfit
from textdiffseg.imaging.volume import Geometry, describe

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_COPY_VOXELS = 0.05  # between the points of an outline and of its copy, which may be rounded
MIN_POINTS = 3  # of an outline with an area


def filled(
    contours: Iterable["Dataset"], name: str, geometry: Geometry, path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask (D, H, W) inside the closed outlines of a structure, and notes. A copy of an outline does not count.

    Args:
        contours: the items of its Contour Sequence.
        name: of the structure.
        geometry: of the scan.
        path: of the structure set, for messages.

    Raises:
        UserError: an outline is malformed, or the outlines do not fit the slices of the scan.
    """
    outlines: dict[int, _Outlines] = {}  # by slice
    left_out = 0
    for contour in contours:
        points = _points(contour, name, path)
        if len(points) < MIN_POINTS or not str(contour.get("ContourGeometricType", "")).upper().startswith("CLOSED"):
            left_out += len(points) > 0
            continue
        number, positions = _on_slice(points, geometry, path)
        outlines.setdefault(number, _Outlines()).add(positions)
    mask = np.zeros(geometry.shape, bool)
    slices = [_fill(mask, number, own.distinct, geometry) for number, own in sorted(outlines.items())]
    refuse_unfit(slices, name, path)
    return mask, _notes(name, bool(outlines), left_out > 0, bool(mask.any()))


def _notes(name: str, closed: bool, left_out: bool, held: bool) -> tuple[str, ...]:
    if closed and not held:
        return (f"No voxel has its centre inside the outlines of {name}, so it counts as not drawn.",)
    if not left_out:
        return ()
    if closed:
        return (f"{name} has open outlines or points, too. They were left out.",)
    return (f"{name} has no closed outlines, so it counts as not drawn.",)


def _points(contour: "Dataset", name: str, path: Path) -> np.ndarray:
    """The points (N, 3) of an outline: world LPS in mm. Raises `UserError` for a malformed one."""
    try:
        if b"_" in _stored(contour):  # pydicom reads 1_0 as 10
            raise ValueError
        numbers = np.array(contour.get("ContourData") or (), float).ravel()
    except (TypeError, ValueError, ArithmeticError):
        raise _malformed(name, path, "has a coordinate that is not a number") from None
    if numbers.size % 3:
        raise _malformed(name, path, f"has {numbers.size} coordinates, expected three for each point")
    if not np.isfinite(numbers).all():
        raise _malformed(name, path, "has a coordinate that is not a number")
    if (farthest := np.abs(numbers).max(initial=0)) > MAX_ORIGIN_MM:
        raise _malformed(
            name, path, f"has a coordinate of {farthest:.4g} mm, expected numbers of at most {MAX_ORIGIN_MM:.0f}"
        )
    return numbers.reshape(-1, 3)


def _stored(contour: "Dataset") -> bytes:
    """The coordinates as the file holds them; empty if they do not come from a file."""
    element = contour.get_item("ContourData") if "ContourData" in contour else None
    value = None if element is None else element.value
    return value if isinstance(value, bytes) else b""


def _malformed(name: str, path: Path, fault: str) -> UserError:
    return UserError(f"{path}: an outline of {name} {fault}. Export it again.")


def _on_slice(points: np.ndarray, geometry: Geometry, path: Path) -> tuple[int, np.ndarray]:
    """The number of the slice with an outline, and its points (3, N) as an index (d, h, w) of the scan."""
    homogeneous = np.column_stack([points, np.ones(len(points))])
    positions = np.linalg.solve(geometry.affine, homogeneous.T)[:3]
    number = int(np.rint(positions[0].mean()))
    if np.abs(positions[0] - number).max() > MAX_OFFSET_VOXELS:
        raise UserError(
            f"{path}: an outline is not on a slice of the scan ({describe(geometry)}). Give the scan on which it "
            "was drawn, as DICOM."
        )
    return number, positions


class _Outlines:
    """The distinct outlines (3, N) of a slice. A thresholded structure may have hundreds of them."""

    def __init__(self) -> None:
        self.distinct: list[np.ndarray] = []
        self._places: dict[tuple[int, ...], list[np.ndarray]] = {}  # by the rounded lowest corner of their box

    def add(self, positions: np.ndarray) -> None:
        """Add an outline, unless it is a copy of another one."""
        corner = np.floor(positions.min(axis=1)[1:]).astype(int)  # copies lie in the same cell, or in one beside it
        near = (
            other
            for row in range(corner[0] - 1, corner[0] + 2)
            for column in range(corner[1] - 1, corner[1] + 2)
            for other in self._places.get((row, column), ())
        )
        if not any(_is_copy(positions, other) for other in near):
            self.distinct.append(positions)
            self._places.setdefault((corner[0], corner[1]), []).append(positions)


def _is_copy(positions: np.ndarray, other: np.ndarray) -> bool:
    """Whether two outlines (3, N) have the same points. Their starts and directions may differ."""
    if np.abs(positions.max(axis=1) - other.max(axis=1)).max() > MAX_COPY_VOXELS:  # quick, and true for most pairs
        return False
    pairs = ((positions.T, other.T), (other.T, positions.T))
    return max(directed_hausdorff(*pair)[0] for pair in pairs) <= MAX_COPY_VOXELS


def _fill(mask: np.ndarray, number: int, outlines: list[np.ndarray], geometry: Geometry) -> DrawnSlice:
    """Fill the outlines (3, N) of a slice in the mask. They may lie outside the scan, wholly or in part."""
    row, column = np.concatenate([_crossings(*positions[1:]) for positions in outlines], axis=1)
    order = np.lexsort((column, row))
    row, start, end = row[order][::2], column[order][::2], column[order][1::2]  # runs of pixels: start <= column < end
    voxels, inside = int((end - start).sum()), 0
    depth, height, width = geometry.shape
    if 0 <= number < depth:
        own = (row >= 0) & (row < height)
        edges = np.zeros((height, width + 1), np.int32)
        for columns, change in ((start, 1), (end, -1)):
            np.add.at(edges, (row[own], np.clip(columns[own], 0, width)), change)
        mask[number] = np.cumsum(edges, axis=1)[:, :-1] > 0
        inside = int(np.count_nonzero(mask[number]))
    distance = max(distance_from_scan(positions, geometry) for positions in outlines)
    return DrawnSlice(number, voxels, voxels - inside, distance)


def _crossings(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The rows of pixels that a closed polygon crosses, and the first pixel behind each crossing: (2, crossings)."""
    next_rows, next_columns = np.roll(rows, -1), np.roll(columns, -1)
    first, last = (np.ceil(side(rows, next_rows)).astype(int) for side in (np.minimum, np.maximum))
    counts = last - first  # an edge crosses the rows first, ..., last - 1
    edge = np.repeat(np.arange(len(rows)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row - rows[edge]) / (next_rows - rows)[edge]
    return np.stack([row, np.ceil(columns[edge] + share * (next_columns - columns)[edge]).astype(int)])
