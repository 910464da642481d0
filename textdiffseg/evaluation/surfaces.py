"""Surface distances of two masks: normalised surface Dice (NSD) and HD95, both from one set of distances.

The surface S_X of a mask X has one element at each corner of voxels where the eight voxels around it differ. Its area
a in mm² is that of marching cubes. d_Y(s) is the distance in mm from an element s to the nearest element of S_Y:

    NSD  = (a{s in S_X: d_Y(s) <= tolerance} + a{s in S_Y: d_X(s) <= tolerance}) / (a(S_X) + a(S_Y))
    HD95 = the larger over both directions of the smallest d with a{s in S_X: d_Y(s) <= d} >= .95 a(S_X)

(Nikolov et al. 2018.) Both are equal to those of DeepMind's surface-distance, which has the table of areas. It computes
distances for every voxel of the box, and it sorts them as Python objects. Here a k-d tree of the elements is searched.

Three ways lead to the same distances, and the masks alone decide between them:

1. The tree finds the elements nearer than `NEAR_VOXELS` voxels. Others need no distance if less than 5% of the area is
   farther than that.
2. It also finds far elements, if they are few. Such a search is slow in the middle of a large surface, where many
   elements are nearly the nearest one.
3. Otherwise, and if the surfaces are dense (noise), scipy transforms the whole box. This takes 16 bytes a voxel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plans.geometry import Millimetres, Triple, triple

PERCENTILE = 0.95  # of HD95
NEAR_VOXELS = 10  # of the coarsest axis
MAX_FAR_PAIRS = 100  # far elements times elements of the other surface, per voxel of the box
MAX_TREE_SHARE = 1 / 16  # elements of a surface per voxel of the box
BLOCK = 2**20  # elements whose distances are computed at once


@dataclass(frozen=True)
class Surface:
    """The surface elements of a mask. They lie on the grid of the corners between voxels."""

    grid: Triple  # corners along each axis: one more than voxels
    indices: np.ndarray  # (N,) flat indices in the grid, ascending
    codes: np.ndarray  # (N,) uint8; the eight voxels around the corner, as `corner_codes` has them

    @cached_property
    def points(self) -> np.ndarray:
        """The positions (N, 3) in the grid."""
        return np.stack(np.unravel_index(self.indices, self.grid), 1)


def surface_scores(
    predicted: np.ndarray, expected: np.ndarray, spacing: Millimetres, tolerance_mm: float
) -> tuple[float, float]:
    """(NSD, HD95 in mm) of two non-empty masks (D, H, W) of one shape. Outside of the array is background.

    Args:
        predicted: (D, H, W) bool.
        expected: (D, H, W) bool.
        spacing: mm, (D, H, W).
        tolerance_mm: of NSD.
    """
    areas = element_areas(spacing)
    first, second = surface_of(predicted), surface_of(expected)
    total_area, area_within, percentiles = 0.0, 0.0, []
    for source, target in ((first, second), (second, first)):
        to_target = nearest_distances(source, target, areas, spacing, tolerance_mm)
        distances, area = area_by_distance(to_target, source.codes, areas)
        total_area += area.sum()
        area_within += area[distances <= tolerance_mm].sum()
        percentiles.append(percentile_of(distances, area))
    return float(area_within / total_area), max(percentiles)


def element_areas(spacing: Millimetres) -> np.ndarray:
    """The area (256,) in mm² of the surface element of each code of `corner_codes`."""
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    return create_table_neighbour_code_to_surface_area(spacing)


def corner_codes(mask: np.ndarray) -> np.ndarray:
    """The code (D + 1, H + 1, W + 1) uint8 of each corner: one bit for each of the eight voxels around it.

    Corner i lies between the voxels i - 1 and i of an axis. Bit 4 a + 2 b + c is set if the voxel (i - a, j - b, k - c)
    is in the mask (bool).
    """
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    bits = np.ascontiguousarray(mask).view(np.uint8)
    for bit, offset in enumerate(np.ndindex(2, 2, 2)):
        corners = tuple(slice(first, first + size) for first, size in zip(offset, mask.shape, strict=True))
        codes[corners] |= bits << np.uint8(bit)
    return codes


def surface_of(mask: np.ndarray) -> Surface:
    """The surface elements of a mask (D, H, W) bool."""
    codes = corner_codes(mask)
    indices = np.flatnonzero(codes - np.uint8(1) < 254)  # neither 0 nor 255
    return Surface(triple(codes.shape), indices, codes.reshape(-1)[indices])


def area_by_distance(distances: np.ndarray, codes: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different distances (M,), ascending, and the area (M,) in mm² of the elements at each of them.

    Args:
        distances: (N,) in mm, of N elements.
        codes: (N,) of the elements.
        areas: (256,) in mm² of each code.
    """
    different = np.unique(distances)
    area = np.zeros(len(different))
    for block in _blocks(len(distances)):
        rows = np.searchsorted(different, distances[block])
        area += np.bincount(rows, areas[codes[block]], minlength=len(different))
    return different, area


def percentile_of(distances: np.ndarray, area: np.ndarray) -> float:
    """The smallest of the distances (M,) within which `PERCENTILE` of the area (M,) lies."""
    within = area.cumsum()
    row = int(np.searchsorted(within / within[-1], PERCENTILE))
    return float(distances[min(row, len(distances) - 1)])


def nearest_distances(
    source: Surface, target: Surface, areas: np.ndarray, spacing: Millimetres, tolerance_mm: float
) -> np.ndarray:
    """The distance (N,) in mm from each element of `source` to the nearest one of `target`.

    It is infinite for elements farther than `NEAR_VOXELS` voxels, if neither NSD nor HD95 depends on their distances.
    `areas` (256,) are those of the codes.
    """
    from scipy.spatial import cKDTree

    voxels, step = float(np.prod(source.grid)), np.array(spacing)
    if max(len(source.indices), len(target.indices)) > MAX_TREE_SHARE * voxels:
        return _transformed(source, target, step)
    distances = np.full(len(source.indices), np.inf)
    distances[np.isin(source.indices, target.indices, assume_unique=True, kind="sort")] = 0.0
    near, tree = NEAR_VOXELS * float(step.max()), cKDTree(target.points * step)
    _search(tree, source, target, step, distances, near)
    area = areas[source.codes]
    known = area[np.isfinite(distances)].sum() / area.sum()
    if tolerance_mm < 0.99 * near and known > PERCENTILE + 1e-6:  # both margins: rounding
        return distances
    if np.count_nonzero(np.isinf(distances)) * float(len(target.indices)) > MAX_FAR_PAIRS * voxels:
        return _transformed(source, target, step)
    _search(tree, source, target, step, distances, np.inf)
    return distances


def _search(
    tree: Any, source: Surface, target: Surface, step: np.ndarray, distances: np.ndarray, most_mm: float
) -> None:
    """Fill in the distances that are infinite and at most `most_mm`, from the k-d tree of `target`."""
    unknown = np.flatnonzero(np.isinf(distances))
    for block in _blocks(len(unknown)):
        searched = source.points[unknown[block]]
        _, nearest = tree.query(searched * step, distance_upper_bound=most_mm)
        has_neighbour = nearest < len(target.indices)  # scipy gives the others this number
        steps = searched[has_neighbour] - target.points[nearest[has_neighbour]]
        distances[unknown[block][has_neighbour]] = _lengths(steps, step)


def _transformed(source: Surface, target: Surface, step: np.ndarray) -> np.ndarray:
    """The distances from the nearest element of every corner of the grid."""
    from scipy.ndimage import distance_transform_edt

    outside = np.ones(source.grid, bool)
    outside.reshape(-1)[target.indices] = False
    nearest = distance_transform_edt(outside, sampling=step, return_distances=False, return_indices=True)
    nearest = nearest.reshape(3, -1)
    distances = np.empty(len(source.indices))
    for block in _blocks(len(source.indices)):
        indices = source.indices[block]
        points = np.stack(np.unravel_index(indices, source.grid), 1)
        distances[block] = _lengths(points - nearest[:, indices].T, step)
    return distances


def _lengths(steps: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The lengths (N,) in mm of differences (N, 3) in voxels. Equal differences have equal lengths to the last bit."""
    return np.sqrt(np.square(steps * spacing).sum(1))


def _blocks(elements: int) -> Iterator[slice]:
    for first in range(0, elements, BLOCK):
        yield slice(first, first + BLOCK)
