"""The values of a mask: which ones a label map may hold, and how many voxels have each."""

from pathlib import Path

import numpy as np

from plans.errors import UserError

MAX_VALUES = 1000  # of a label map; a scan has more, unless it has 8 bits
MIN_SCAN_VALUES = 30  # of a scan of 8 bits; a mask with fewer values is not examined further
MAX_CHANGES = 0.4  # label maps: 0.33 for a grid of labels 3 voxels wide; scans of 8 bits: 0.49 to 0.98


def label_counts(array: np.ndarray, mask: Path) -> dict[int, int]:
    """The voxels of each value above 0 in a label map (D, H, W). Raises `UserError` for other images."""
    values, counts = np.unique(array, return_counts=True)
    if len(values) > MAX_VALUES or (len(values) >= MIN_SCAN_VALUES and _changes(array) > MAX_CHANGES):
        raise UserError(f"{mask} has {len(values)} different values: it seems to be a scan, not a mask.")
    refuse_negative(values, mask)
    return {int(value): count for value, count in zip(values, counts.tolist(), strict=True) if value > 0}


def refuse_negative(values: np.ndarray, mask: Path) -> None:
    """Raise `UserError` if one of the values of a mask is below 0."""
    if (lowest := values.min()) < 0:
        raise UserError(f"{mask} has the value {lowest}. Expected 0 for background, and values above 0 for labels.")


def _changes(array: np.ndarray) -> float:
    """The share of changes between two labels, of the neighbours along the last axis that are not both background.

    Labels are regions, so most neighbours in them are equal. In a scan, noise makes most neighbours differ.
    """
    left, right = array[..., :-1], array[..., 1:]
    changes = int(np.count_nonzero((left != right) & (left != 0) & (right != 0)))
    return changes / max(1, int(np.count_nonzero((left != 0) | (right != 0))))
