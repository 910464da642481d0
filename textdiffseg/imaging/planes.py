"""A picture of a segmentation: three planes through the middle of the masks, in radiological orientation.

The patient's right is on the left side. Anterior and superior are up. All planes have the same scale. The planes of an
oblique scan follow the scan's own grid; their names are those of the nearest body axis.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textdiffseg.extras import require
from textdiffseg.imaging.boxes import Box, bounds
from textdiffseg.imaging.drawing import PLANES, letters, limit, outline, pixel_aspect, plane
from textdiffseg.imaging.volume import Volume, to_canonical
from textdiffseg.pictures import add_legend, label_colour, save_figure, shorten, write_plainly

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT, MIN_WIDTH, MAX_WIDTH = 5.0, 8.0, 18.0  # inches
MAX_NAMES = 32  # in the legend
# Windows of Hounsfield units. Lung and bone are for labelled tissue below MAX_LUNG_HU or above MIN_BONE_HU.
SOFT_TISSUE, LUNG, BONE = (-160.0, 240.0), (-1350.0, 150.0), (-500.0, 1300.0)
MAX_LUNG_HU, MIN_BONE_HU = -300.0, 300.0  # medians of the labelled voxels
MAX_AIR = 0.1  # of the range from the darkest voxel to white
PERCENTILES = (1.0, 99.5)  # window of other scans, over the voxels above the background


def draw_planes(
    path: Path, scan: Volume, labels: np.ndarray, names: Mapping[int, str], title: str, hounsfield: bool = False
) -> None:
    """Write a PNG of the first channel that the scan has, with its masks.

    Args:
        path: of the PNG.
        scan: (C, D, H, W).
        labels: label values (D, H, W) on the scan's grid.
        names: value -> name of all queried labels.
        title: of the picture.
        hounsfield: whether the scan's channel 0 is CT, in HU.

    Raises:
        UserError: matplotlib is not installed.
    """
    require("report", "A picture", "matplotlib")
    from matplotlib.figure import Figure

    canonical, orientation = to_canonical(scan)
    image, masks = canonical.array[scan.first_channel], orientation.apply(labels)
    spacing = canonical.geometry.spacing
    shown = grey_range(image, masks > 0, hounsfield and scan.first_channel == 0)
    box = shown_box(image, masks > 0, min(shown[0], image.min() + MAX_AIR * (shown[1] - image.min())))
    size = np.array([edge.stop - edge.start for edge in box]) * spacing  # mm
    widths, heights = (size[2], size[2], size[1]), (size[1], size[0], size[0])
    width = float(np.clip(HEIGHT * sum(widths) / max(heights), MIN_WIDTH, MAX_WIDTH))
    figure = Figure(figsize=(width, HEIGHT + 1.0), facecolor="black", layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=widths)
    for axes, axis, position in zip(panels, PLANES, middle(masks), strict=True):
        grey, cut = (plane(array, box, axis, position) for array in (image, masks))
        _draw_plane(axes, axis, grey, cut, list(names), shown, pixel_aspect(spacing, axis))
        name = f"{PLANES[axis][0]}, slice {position + 1} of {image.shape[axis]}"
        axes.set_title(name, color="white", fontsize=9)
    write_plainly(figure.suptitle("", color="white"), shorten(title))
    _add_names(figure, masks, names, float(np.prod(spacing)) / 1000)
    save_figure(figure, path)


def middle(masks: np.ndarray) -> tuple[int, int, int]:
    """For each axis, the labelled position nearest to the masks' centre of mass. Without masks: the scan's middle."""
    counts = [np.count_nonzero(masks, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    if not counts[0].any():
        d, h, w = (size // 2 for size in masks.shape)
        return d, h, w
    positions = []
    for count in counts:
        centre = np.average(np.arange(len(count)), weights=count)
        labelled = np.flatnonzero(count)
        positions.append(int(labelled[np.argmin(np.abs(labelled - centre))]))
    return positions[0], positions[1], positions[2]


def grey_range(image: np.ndarray, labelled: np.ndarray, hounsfield: bool) -> tuple[float, float]:
    """The intensities of black and white. For CT the labelled tissue decides the window, otherwise percentiles."""
    if hounsfield and image.min() < MAX_LUNG_HU:  # there is air, so these are Hounsfield units
        tissue = float(np.median(image[labelled])) if labelled.any() else 0.0
        return LUNG if tissue < MAX_LUNG_HU else BONE if tissue > MIN_BONE_HU else SOFT_TISSUE
    values = image[image > image.min()]
    low, high = np.percentile(values if values.size else image, PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def shown_box(image: np.ndarray, labelled: np.ndarray, air: float) -> Box:
    """The bounding box of all masks and of all voxels brighter than `air`; without any, the whole image."""
    return bounds(labelled | (image > air)) or tuple(slice(0, size) for size in image.shape)


def _draw_plane(
    axes: "Axes",
    axis: int,
    grey: np.ndarray,
    labels: np.ndarray,
    values: list[int],
    shown: tuple[float, float],
    aspect: float,
) -> None:
    axes.imshow(grey, cmap="gray", vmin=shown[0], vmax=shown[1], aspect=aspect, interpolation="bilinear")
    overlay = np.zeros((*labels.shape, 4))
    for position, value in enumerate(values):
        mask = labels == value
        overlay[mask] = (*label_colour(position), 0.35)
        outline(axes, mask, colors=[label_colour(position)], linewidths=1.0)
    axes.imshow(overlay, aspect=aspect, interpolation="nearest")
    limit(axes, labels)
    axes.set_axis_off()
    letters(axes, axis, color="yellow")


def _add_names(figure: "Figure", masks: np.ndarray, names: Mapping[int, str], millilitres: float) -> None:
    """Add the legend: the labels that were found, with their volumes, and those that were not."""
    from matplotlib.lines import Line2D

    counts = np.bincount(masks.ravel().astype(np.int64), minlength=1 + max(names, default=0))
    present = [(position, value) for position, value in enumerate(names) if counts[value]]
    entries = [
        (Line2D([], [], color=label_colour(position), lw=3), f"{shorten(names[value])}", counts[value] * millilitres)
        for position, value in present[:MAX_NAMES]
    ]
    handles, texts = [line for line, *_ in entries], [f"{name}, {volume:.1f} ml" for _, name, volume in entries]
    missing = [names[value] for value in names if not counts[value]]
    if missing:
        handles.append(Line2D([], [], color="none"))
        texts.append(f"not in the mask: {shorten(', '.join(missing))}")
    if len(present) > MAX_NAMES:
        handles.append(Line2D([], [], color="none"))
        texts.append(f"and {len(present) - MAX_NAMES} more labels")
    if handles:
        layout = {"loc": "outside lower center", "ncols": min(4, len(handles)), "fontsize": "small"}
        add_legend(figure, handles, texts, labelcolor="white", frameon=False, **layout)


def reduction(shape: Sequence[int], spacing: Sequence[float], voxels: int) -> np.ndarray:
    """The voxels (3,) along each axis that become one, so that about `voxels` are left. The finest axis comes first."""
    steps = np.ones(3, dtype=int)
    while np.prod(np.array(shape) // steps) > voxels:
        steps[int(np.argmin(steps * np.array(spacing)))] += 1
    return np.minimum(steps, shape)
