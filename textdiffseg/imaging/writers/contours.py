"""Outlines of binary masks as closed polygons, one per connected part of a slice.

An outline runs halfway between the centres of pixels inside and outside, so a reader finds exactly the centres inside.
A part with holes is one polygon: a narrow channel (keyhole) of no width leads to each hole and back (PS3.3, C.8.8.6.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import contourpy
import numpy as np
from scipy.spatial.distance import cdist

from textdiffseg.imaging.boxes import bounds


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The polygons (points, 2) around a mask (rows, columns), as (row, column). The last point is not the first."""
    box = bounds(mask)
    if box is None:
        return
    top, left = (side.start - 1 for side in box)
    padded = np.pad(mask[box], 1).astype(float)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        rings = [_corners(points[start : end - 1]) for start, end in pairwise(offsets)]
        yield _joined(rings)[:, ::-1] + (top, left)


def _corners(ring: np.ndarray) -> np.ndarray:
    """The ring without points on the straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return ring[turns]


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """One polygon of an outer ring and its holes. The nearest hole is joined first, so no channel crosses another."""
    polygon, holes = rings[0], rings[1:]
    channels = [_channel(polygon, hole) for hole in holes]
    while holes:
        nearest = min(range(len(holes)), key=lambda index: channels[index].squared_length)
        channel, hole = channels.pop(nearest), holes.pop(nearest)
        hole = np.roll(hole, -_corner_index(hole, channel.at_hole), axis=0)
        start = _corner_index(polygon, channel.at_polygon)
        polygon = np.concatenate([polygon[: start + 1], hole, hole[:1], polygon[start:]])
        # The joined hole is a part of the polygon now, and may be nearer to the other holes.
        candidates = [(old, _channel(hole, other)) for old, other in zip(channels, holes, strict=True)]
        channels = [min(pair, key=lambda channel: channel.squared_length) for pair in candidates]
    return polygon


@dataclass(frozen=True)
class _Channel:
    """The narrow channel between a polygon and a hole in it."""

    squared_length: float
    at_polygon: np.ndarray  # (2,) its end at the polygon
    at_hole: np.ndarray  # (2,) its end at the hole


def _channel(ring: np.ndarray, hole: np.ndarray) -> _Channel:
    """The shortest channel between the points of two rings."""
    apart = cdist(ring, hole, "sqeuclidean")
    row, column = np.unravel_index(int(apart.argmin()), apart.shape)
    return _Channel(float(apart[row, column]), ring[row], hole[column])


def _corner_index(ring: np.ndarray, point: np.ndarray) -> int:
    return int(np.flatnonzero((ring == point).all(axis=1))[0])
