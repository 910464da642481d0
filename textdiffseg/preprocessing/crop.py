"""The crop box of a scan: what is kept before resampling. Training, validation and prediction use the same rule."""

import numpy as np

from plans.geometry import Millimetres, Triple
from plans.plan import Crop
from textdiffseg.imaging.body import body_box
from textdiffseg.imaging.boxes import Box, bounds, joint

Sides = tuple[tuple[int, int], ...]
"""(start, end) along each axis."""


def crop_box(image: np.ndarray, spacing: Millimetres, crop: Crop, labels: np.ndarray | None = None) -> Sides:
    """The box (start, end along each axis) that is kept of a canonical image (C, D, H, W).

    Args:
        image: (C, D, H, W). `body` reads the first channel only.
        spacing: in mm (D, H, W).
        crop: the rule. `body` becomes `nonzero` if no body is found.
        labels: label numbers (D, H, W) of a training case. The box is extended to all voxels above 0.
    """
    if crop == "none":
        return full_box(image.shape[1:])
    box = (body_box(image[0], spacing) if crop == "body" else None) or bounds((image != 0).any(axis=0))
    sides = full_box(image.shape[1:]) if box is None else tuple((side.start, side.stop) for side in box)
    return sides if labels is None else with_labels(sides, labels)


def with_labels(sides: Sides, labels: np.ndarray) -> Sides:
    """The box, extended to all label numbers above 0 of (D, H, W)."""
    box = joint((tuple(slice(*side) for side in sides), bounds(labels > 0)))
    assert box is not None, "one of the two boxes exists"
    return tuple((side.start, side.stop) for side in box)


def with_margin(sides: Sides, shape: Triple, margin: int) -> tuple[Box, Box]:
    """A box with `margin` voxels around it, as far as a scan of `shape` reaches, and the box's place in it."""
    axes = zip(sides, shape, strict=True)
    outer = tuple(slice(max(0, start - margin), min(size, end + margin)) for (start, end), size in axes)
    inner = tuple(slice(start - out.start, end - out.start) for (start, end), out in zip(sides, outer, strict=True))
    return outer, inner


def full_box(shape: Triple) -> Sides:
    """(start, end) along each axis of the whole array."""
    return tuple((0, size) for size in shape)
