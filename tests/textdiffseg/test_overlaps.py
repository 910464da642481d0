"""Overlaps of many label maps are those of each pair."""

import numpy as np

from textdiffseg import overlaps
from textdiffseg.overlaps import dice_of, intersections, iou_of

MAPS = list(np.random.default_rng(0).integers(0, 4, (5, 6, 7, 8)))


def test_overlaps_are_those_of_each_pair(monkeypatch):
    monkeypatch.setattr(overlaps, "MAX_VOXELS", 50)  # several pieces
    for values in ((2,), (1, 3)):
        counts = intersections(MAPS, values)
        dice, iou = dice_of(counts), iou_of(counts)
        for i, a in enumerate(MAPS):
            for j, b in enumerate(MAPS):
                first, second = np.isin(a, values), np.isin(b, values)
                assert counts[i, j] == np.sum(first & second)
                assert dice[i, j] == 2 * np.sum(first & second) / (np.sum(first) + np.sum(second))
                assert iou[i, j] == np.sum(first & second) / np.sum(first | second)


def test_two_empty_masks_overlap_fully_and_one_empty_mask_not_at_all():
    counts = intersections([np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2))], (1,))
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert np.array_equal(dice_of(counts), expected)
    assert np.array_equal(iou_of(counts), expected)
