"""A picture of predictions: one slice per case, with the contours of the prediction and of the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plans.geometry import Millimetres
from textdiffseg.imaging.drawing import fullest_slice
from textdiffseg.pictures import Colour, add_legend, label_colour, save_figure, shorten, write_plainly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_MARGIN_VOXELS = 10  # around the structures; these voxels decide the range of grey values


@dataclass(frozen=True)
class Panel:
    """One case to draw, in canonical orientation (axes towards superior, posterior, left)."""

    title: str
    image: np.ndarray  # (D, H, W)
    prediction: np.ndarray  # (D, H, W) label values
    reference: np.ndarray  # (D, H, W) label values
    spacing: Millimetres


def draw_panels(panels: Sequence[Panel], labels: Mapping[int, str], path: Path, rows: int = 1) -> None:
    """Write a PNG with one coronal slice per case. The prediction is solid, the reference dashed and white.

    The slice is the one with the most labels and, among those, with the most labelled voxels.

    Args:
        panels: one per case.
        labels: value -> name.
        path: of the PNG.
        rows: rows of equal length, filled one after the other.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = {value: label_colour(position) for position, value in enumerate(labels)}
    columns = len(panels) // rows
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows + 0.5), facecolor="black", layout="constrained")
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        _draw(axes, panel, colours)
    handles = [Line2D([], [], color=colours[value]) for value in labels]
    handles.append(Line2D([], [], color="white", linestyle="--"))
    names = [*map(shorten, labels.values()), "reference"]
    layout = {"loc": "outside lower center", "ncols": min(len(handles), 2 + 2 * columns)}
    add_legend(figure, handles, names, labelcolor="white", frameon=False, **layout)
    save_figure(figure, path)


def _draw(axes: "Axes", panel: Panel, colours: Mapping[int, Colour]) -> None:
    row = fullest_slice(panel.reference if panel.reference.any() else panel.prediction, axis=1)
    image, prediction, reference = (array[::-1, row] for array in (panel.image, panel.prediction, panel.reference))
    low, high = np.percentile(_surroundings(panel), (1, 99.8))
    aspect = panel.spacing[0] / panel.spacing[2]
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
    for value, colour in colours.items():
        for mask, style in ((prediction == value, "-"), (reference == value, "--")):
            if mask.any() and not mask.all():
                line, width = (colour, 1.4) if style == "-" else ((1.0, 1.0, 1.0), 0.7)
                axes.contour(mask, [0.5], linewidths=width, colors=[line], linestyles=style)
    write_plainly(axes.set_title("", color="white", fontsize=9), shorten(panel.title))
    axes.set_axis_off()


def _surroundings(panel: Panel) -> np.ndarray:
    """The image around the structures, with half their extent on each side. In CT, air and bone would hide a lesion."""
    labelled = np.argwhere(panel.reference if panel.reference.any() else panel.prediction)
    if not len(labelled):
        return panel.image
    first = labelled.min(0)
    last = labelled.max(0) + 1
    margin = np.maximum((last - first) // 2, MIN_MARGIN_VOXELS)
    return panel.image[tuple(slice(max(0, a - m), b + m) for a, b, m in zip(first, last, margin, strict=True))]
