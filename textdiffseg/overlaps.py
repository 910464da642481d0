"""Overlaps of many label maps with each other, as matrices over pairs of maps A, B.

    Dice(A, B) = 2 |A n B| / (|A| + |B|)        IoU(A, B) = |A n B| / |A u B|

Two empty masks overlap fully: both scores are 1.
"""

from collections.abc import Collection, Sequence

import numpy as np

from textdiffseg.masks import mask_of

MAX_VOXELS = 1 << 20  # of a map at a time; counts of this size are exact in float32


def intersections(maps: Sequence[np.ndarray], values: Collection[int]) -> np.ndarray:
    """|A n B| of every pair of N masks, (N, N) int64. The diagonal holds the sizes.

    Args:
        maps: N label maps of the same shape.
        values: a mask holds the voxels with one of these values.
    """
    total = np.zeros((len(maps), len(maps)), np.int64)
    flat = [np.ascontiguousarray(label_map).reshape(-1) for label_map in maps]
    for first in range(0, flat[0].size, MAX_VOXELS):
        masks = np.stack([mask_of(label_map[first : first + MAX_VOXELS], values) for label_map in flat])
        occupied = masks[:, masks.any(0)].astype(np.float32)
        total += np.rint(occupied @ occupied.T).astype(np.int64)
    return total


def dice_of(counts: np.ndarray) -> np.ndarray:
    """Dice (N, N) of every pair, from `intersections`."""
    sizes = np.diagonal(counts)
    return _ratio(2 * counts, sizes[:, None] + sizes)


def iou_of(counts: np.ndarray) -> np.ndarray:
    """IoU (N, N) of every pair, from `intersections`."""
    sizes = np.diagonal(counts)
    return _ratio(counts, sizes[:, None] + sizes - counts)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.ones(numerator.shape), where=denominator > 0)
