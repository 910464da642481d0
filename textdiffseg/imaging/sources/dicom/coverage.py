"""Rules for a structure that was drawn on the slices of a scan: it lies in the scan, and no slice was skipped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.volume import Geometry

MAX_OFFSET_VOXELS = 0.25  # of an outline from its slice, and of a pixel from the nearest voxel of the scan
MAX_OUTSIDE = 0.01  # share of a structure's voxels; an outline may run a little beyond the border of the scan
MIN_STEPS = 3  # between slices with drawings, before their distance counts as regular
MAX_STEP = 5  # slices; parts that lie further apart are separate, such as lymph nodes


@dataclass(frozen=True)
class DrawnSlice:
    """What was drawn of a structure on one slice."""

    number: int  # of the slice; it may lie outside the scan
    voxels: int
    outside: int  # of these voxels, those outside the scan
    distance_mm: float  # of the farthest point from the scan


def distance_from_scan(positions: np.ndarray, geometry: Geometry) -> float:
    """The distance in mm of the farthest position (3, N), an index (d, h, w), from the scan; 0 inside it."""
    low, high = -0.5, np.array(geometry.shape)[:, None] - 0.5
    beyond = np.maximum(np.maximum(low - positions, positions - high), 0) * np.array(geometry.spacing)[:, None]
    return float(np.linalg.norm(beyond, axis=0).max(initial=0))


def refuse_unfit(slices: Sequence[DrawnSlice], name: str, path: Path) -> None:
    """Raise `UserError` for a structure that does not fit the slices of the scan: it would be cut, or have gaps."""
    _refuse_lost(slices, name, path)
    _refuse_skipped(slices, name, path)


def _refuse_lost(slices: Sequence[DrawnSlice], name: str, path: Path) -> None:
    """Raise `UserError` if a share of the structure lies outside the scan, where it would be lost."""
    voxels, outside = sum(one.voxels for one in slices), sum(one.outside for one in slices)
    if outside > MAX_OUTSIDE * voxels:
        farthest = max(one.distance_mm for one in slices)
        raise UserError(
            f"{path}: {outside / voxels:.0%} of {name} lie outside the scan, up to {farthest:.4g} mm from it. "
            "Give the scan on which it was drawn, or choose other structures with --labels NAME=VALUE ..."
        )


def _refuse_skipped(slices: Sequence[DrawnSlice], name: str, path: Path) -> None:
    """Raise `UserError` for a structure that was drawn on every second slice, or every third, and so on.

    That is so if more than half of the steps between neighbouring drawings are n slices long, with n above 1. Parts
    that lie apart have steps of one slice inside them, or steps of several lengths.
    """
    numbers = sorted({one.number for one in slices})
    steps = Counter(after - before for before, after in pairwise(numbers))
    if steps.total() < MIN_STEPS:
        return
    step, count = steps.most_common(1)[0]
    if 1 < step <= MAX_STEP and 2 * count > steps.total():
        raise UserError(
            f"{path}: {name} was drawn on {len(numbers)} of {numbers[-1] - numbers[0] + 1} slices, mostly in steps of "
            f"{step} slices, so it would have gaps. Interpolate it in the program that drew it, such as the planning "
            "system, or choose other structures with --labels NAME=VALUE ... If its parts are truly apart, save it as "
            "a label map."
        )
