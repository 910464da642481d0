"""Outlines of binary masks as closed polygons, one per connected part of a slice.

An outline runs halfway between the centres of pixels inside and outside, so a reader finds exactly the centres inside.
A part with holes is one polygon: a narrow channel (keyhole) of no width leads to each hole and back (PS3.3, C.8.8.6.3).
"""

from collections.abc import Iterator
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
        number = min(range(len(holes)), key=lambda one: channels[one][0])
        _, outside, inside = channels.pop(number)
        hole = holes.pop(number)
        hole = np.roll(hole, -_corner_index(hole, inside), axis=0)
        at = _corner_index(polygon, outside)
        polygon = np.concatenate([polygon[: at + 1], hole, hole[:1], polygon[at:]])
        channels = [min(old, _channel(hole, one), key=_length) for old, one in zip(channels, holes, strict=True)]
    return polygon


_Channel = tuple[float, np.ndarray, np.ndarray]  # its squared length, its end outside the hole, its end at the hole


def _channel(ring: np.ndarray, hole: np.ndarray) -> _Channel:
    """The shortest channel between the points of two rings."""
    apart = cdist(ring, hole, "sqeuclidean")
    at, start = np.unravel_index(int(apart.argmin()), apart.shape)
    return float(apart[at, start]), ring[at], hole[start]


def _length(channel: _Channel) -> float:
    return channel[0]


def _corner_index(ring: np.ndarray, point: np.ndarray) -> int:
    return int(np.flatnonzero((ring == point).all(axis=1))[0])
