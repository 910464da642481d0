"""Bounding boxes of arrays, as tuples of slices."""

from collections.abc import Iterable, Sequence

import numpy as np

Box = tuple[slice, ...]


def joint(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box that contains all boxes that are not None; None if there are none."""
    existing = [box for box in boxes if box is not None]
    if not existing:
        return None
    axes = zip(*existing, strict=True)
    return tuple(slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in axes)


def box_of(boxes: Sequence[Box | None], numbers: Iterable[int]) -> Box | None:
    """The box of several numbers of a label map; None if it has none of them. `boxes`: from scipy's `find_objects`."""
    return joint(boxes[number - 1] for number in numbers if number <= len(boxes))


def bounds(mask: np.ndarray) -> Box | None:
    """The bounding box of a mask, e.g. (D, H, W) or (rows, columns); None if it is empty."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
