"""Outlines of masks: a reader finds exactly the pixels whose centres are inside."""

import numpy as np
import pytest

pytest.importorskip("contourpy")

from textdiffseg.imaging.writers.contours import outlines


def inside(polygon, shape):
    """The pixels (rows, columns) whose centres are inside a polygon, by the even-odd rule."""
    rows, columns = np.indices(shape)
    found = np.zeros(shape, dtype=bool)
    for (r, c), (next_r, next_c) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if r != next_r:
            crossing = (r <= rows) != (next_r <= rows)
            found ^= crossing & (columns < c + (rows - r) / (next_r - r) * (next_c - c))
    return found


def masks():
    ring = np.zeros((9, 11), dtype=bool)
    ring[1:8, 1:10] = True
    ring[2:4, 2:5] = ring[5, 3] = ring[3:6, 7:9] = False
    single, edge, nested = (np.zeros((9, 11), dtype=bool) for _ in range(3))
    single[4, 5] = True
    edge[0, :] = edge[:, 10] = True
    nested[1:8, 1:10] = True
    nested[2:7, 2:9] = False
    nested[4, 4:6] = True
    checks = np.indices((9, 11)).sum(axis=0) % 2 == 0
    noise = [np.random.default_rng(seed).random((9, 11)) < share for seed in range(20) for share in (0.3, 0.6, 0.9)]
    return [ring, single, edge, nested, checks, np.ones((9, 11), dtype=bool), *noise]


def test_the_pixels_inside_the_outlines_are_those_of_the_mask():
    for mask in masks():
        polygons = list(outlines(mask))
        counts = np.sum([inside(polygon, mask.shape) for polygon in polygons], axis=0)
        assert np.array_equal(counts, mask), "each pixel lies in one polygon"
        assert all(len(polygon) >= 4 for polygon in polygons)


def test_an_empty_mask_has_no_outline_and_a_straight_edge_no_points_between_its_ends():
    assert list(outlines(np.zeros((4, 5), dtype=bool))) == []
    box = np.zeros((12, 12), dtype=bool)
    box[2:10, 3:9] = True
    (polygon,) = outlines(box)
    assert len(polygon) == 8, "corners are cut"
    assert polygon[:, 0].min() == 1.5
    assert polygon[:, 1].max() == 8.5
