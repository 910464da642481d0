"""What pictures of scans share: planes, outlines of masks, letters of the body's sides.

Scans are in canonical orientation: the axes point to superior, posterior and left. Planes are shown in radiological
orientation: the patient's right is on the left side, anterior and superior are up.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from textdiffseg.imaging.boxes import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The axis that is cut -> name, and the letters at the left, right, top and bottom.
PLANES = {0: ("axial", "RLAP"), 1: ("coronal", "RLSI"), 2: ("sagittal", "APSI")}
LETTER_POSITIONS = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03))  # shares of a panel, from its lower left


def plane(array: np.ndarray, box: Box, axis: int, position: int) -> np.ndarray:
    """The part of a slice (rows, columns) inside a box, as it is shown: superior or anterior is up."""
    across = tuple(slice(position, position + 1) if other == axis else edge for other, edge in enumerate(box))
    cut = array[across].squeeze(axis)
    return cut if axis == 0 else np.flip(cut, 0)


def pixel_aspect(spacing: tuple[float, float, float], axis: int) -> float:
    """The height of a voxel divided by its width in planes across an axis. `spacing`: of the scan, in mm."""
    rows, columns = (other for other in range(3) if other != axis)
    return spacing[rows] / spacing[columns]


def fullest_slice(labels: np.ndarray, axis: int) -> int:
    """The slice with the most labels and, among those, with the most labelled voxels."""
    others = tuple({0, 1, 2} - {axis})
    counts = np.count_nonzero(labels > 0, axis=others)
    kinds = sum((labels == value).any(axis=others).astype(int) for value in np.unique(labels[labels > 0]))
    return int(np.argmax(kinds * (counts.max() + 1) + counts))


def outline(axes: "Axes", mask: np.ndarray, **style: Any) -> None:
    """Draw the outline of a mask of a plane, also where the mask touches the border."""
    if mask.any():
        padded = np.pad(mask.astype(float), 1)
        x, y = (np.arange(-1, size + 1) for size in (mask.shape[1], mask.shape[0]))
        axes.contour(x, y, padded, [0.5], **style)


def letters(axes: "Axes", axis: int, **style: Any) -> None:
    """Write the letters of the body's sides into the panel of a plane."""
    for letter, (x, y) in zip(PLANES[axis][1], LETTER_POSITIONS, strict=True):
        axes.text(x, y, letter, ha="center", va="center", transform=axes.transAxes, **style)


def limit(axes: "Axes", shown: np.ndarray) -> None:
    """Limit a panel to a plane that it shows. Outlines reach half a voxel beyond."""
    axes.set_xlim(-0.5, shown.shape[1] - 0.5)
    axes.set_ylim(shown.shape[0] - 0.5, -0.5)
