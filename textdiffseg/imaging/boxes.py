"""Bounding boxes of arrays, as tuples of slices."""

from collections.abc import Iterable

Box = tuple[slice, ...]


def joint(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box that contains all boxes that are not None; None if there are none."""
    existing = [box for box in boxes if box is not None]
    if not existing:
        return None
    axes = zip(*existing, strict=True)
    return tuple(slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in axes)
