"""Bounding boxes of arrays, as tuples of slices."""

from collections.abc import Iterable

Box = tuple[slice, ...]


def joint(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box that holds all of those that there are; None without any."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    axes = zip(*there, strict=True)
    return tuple(slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes)
