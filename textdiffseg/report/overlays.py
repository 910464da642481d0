"""Pictures of single cases: three planes with the outlines of prediction and reference, and a map of uncertainty.

Planes are in radiological orientation: the patient's right is on the left side. All planes have the same scale.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from textdiffseg.imaging.boxes import Box, bounds
from textdiffseg.imaging.drawing import PLANES, fullest_slice, letters, limit, outline, pixel_aspect, plane
from textdiffseg.masks import mask_of
from textdiffseg.pictures import label_colour
from textdiffseg.report.page import Html, element, figure, join, paragraphs, swatch
from textdiffseg.report.plots import image
from textdiffseg.report.shown import ShownCase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN_MM = 15.0  # around the masks, and at least `MARGIN` of their size
MARGIN = 0.25
WIDTH = 12.0  # inches of the three planes
MAX_HEIGHT = 6.0


def legend(names: Iterable[str]) -> Html:
    """The colours of the labels, and what the lines mean."""
    entries = [element("span", swatch(label_colour(position)), name) for position, name in enumerate(names)]
    return element("div", *entries, class_="legend")


def overlay(case: ShownCase) -> Html:
    """The picture of a case with its title and its sentences."""
    from matplotlib.figure import Figure

    box, spacing = _box_of_masks(case), case.geometry.spacing
    size = np.array([edge.stop - edge.start for edge in box]) * spacing  # mm
    widths, heights = (size[2], size[2], size[1]), (size[1], size[0], size[0])
    height = min(WIDTH * max(heights) / sum(widths), MAX_HEIGHT)
    rows = 1 if case.uncertainty is None else 2
    drawn = Figure(figsize=(WIDTH, (height + 0.35) * rows), facecolor="black", layout="constrained")
    panels = drawn.subplots(rows, 3, width_ratios=widths, squeeze=False)
    for column, axis in enumerate(PLANES):
        position = _fullest(case, axis)
        _draw_masks(panels[0][column], case, box, axis, position)
        name = f"{PLANES[axis][0]}, slice {position + 1} of {case.image.shape[axis]}"
        panels[0][column].set_title(name, color="white", fontsize=9)
        if case.uncertainty is not None:
            _draw_uncertainty(panels[1][column], case, box, axis, position)
    picture = image(drawn, f"Three planes of case {case.name}", "png")
    return join((element("h3", case.title or case.name), paragraphs(*case.lines), figure(picture, _caption(case))))


def _caption(case: ShownCase) -> str:
    lines = "Solid lines: prediction. "
    if case.reference is not None:
        lines += "Dashed white lines: reference. "
    if case.uncertainty is not None:
        lines += "Below: the uncertainty of each voxel; bright is uncertain. "
    lines += "Each plane is the slice with the most labels. "
    return f"{lines}The letters are right, left, anterior, posterior, superior and inferior."


def _box_of_masks(case: ShownCase) -> Box:
    """The box of the reference with a margin, else that of the prediction; the whole scan if no voxel is labelled."""
    arrays = (case.reference, case.prediction)
    labelled = next((array > 0 for array in arrays if array is not None and (array > 0).any()), None)
    if labelled is None:
        depth, height, width = case.image.shape
        return slice(0, depth), slice(0, height), slice(0, width)
    edges = []
    for side, step, size in zip(bounds(labelled) or (), case.geometry.spacing, labelled.shape, strict=True):
        margin = int(np.ceil(max(MARGIN_MM / step, MARGIN * (side.stop - side.start))))
        edges.append(slice(max(0, side.start - margin), min(size, side.stop + margin)))
    return edges[0], edges[1], edges[2]


def _fullest(case: ShownCase, axis: int) -> int:
    """The slice with the most labels and, among those, with the most labelled voxels. Without masks: the middle."""
    for labels in (case.reference, case.prediction):
        if labels is not None and (labels > 0).any():
            return fullest_slice(labels, axis)
    return case.image.shape[axis] // 2


def _draw_image(axes: "Axes", case: ShownCase, box: Box, axis: int, position: int) -> float:
    """Draw the scan. Returns the height of a voxel divided by its width."""
    height = pixel_aspect(case.geometry.spacing, axis)
    grey = plane(case.image, box, axis, position)
    low, high = case.window
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=height, interpolation="bilinear")
    axes.set_axis_off()
    axes.set_anchor("N")
    letters(axes, axis, color="#ffd34d", fontsize=9)
    return height


def _draw_masks(axes: "Axes", case: ShownCase, box: Box, axis: int, position: int) -> None:
    _draw_image(axes, case, box, axis, position)
    predicted = plane(case.prediction, box, axis, position)
    truth = None if case.reference is None else plane(case.reference, box, axis, position)
    for number, values in enumerate(case.parts.values()):
        colour = label_colour(number)
        outline(axes, mask_of(predicted, values), colors=[colour], linewidths=1.6)
        if truth is not None:
            outline(axes, mask_of(truth, values), colors=["white"], linewidths=0.9, linestyles="--")
    limit(axes, predicted)


def _draw_uncertainty(axes: "Axes", case: ShownCase, box: Box, axis: int, position: int) -> None:
    assert case.uncertainty is not None
    height = _draw_image(axes, case, box, axis, position)
    doubt = plane(case.uncertainty, box, axis, position)
    most = float(case.uncertainty.max()) or 1.0
    opacity = np.clip(2 * doubt / most, 0, 0.85)  # where the model is certain, the scan is seen
    axes.imshow(doubt, cmap="inferno", vmin=0, vmax=most, alpha=opacity, aspect=height, interpolation="nearest")
