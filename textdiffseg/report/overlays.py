"""Pictures of single cases: three planes with the outlines of prediction and reference, and a map of uncertainty.

Planes are in radiological orientation: the patient's right is on the left side. All planes have the same scale.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from textdiffseg.imaging.boxes import bounds
from textdiffseg.imaging.planes import PLANES
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
Box = tuple[slice, slice, slice]


def legend(names: Iterable[str]) -> Html:
    """The colours of the labels, and what the lines mean."""
    entries = [element("span", swatch(label_colour(place)), name) for place, name in enumerate(names)]
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
        place = _fullest(case, axis)
        _draw_masks(panels[0][column], case, box, axis, place)
        name = f"{PLANES[axis][0]}, slice {place + 1} of {case.image.shape[axis]}"
        panels[0][column].set_title(name, color="white", fontsize=9)
        if case.uncertainty is not None:
            _draw_uncertainty(panels[1][column], case, box, axis, place)
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
    held = next((one > 0 for one in (case.reference, case.prediction) if one is not None and (one > 0).any()), None)
    if held is None:
        depth, height, width = case.image.shape
        return slice(0, depth), slice(0, height), slice(0, width)
    edges = []
    for side, step, size in zip(bounds(held) or (), case.geometry.spacing, held.shape, strict=True):
        margin = int(np.ceil(max(MARGIN_MM / step, MARGIN * (side.stop - side.start))))
        edges.append(slice(max(0, side.start - margin), min(size, side.stop + margin)))
    return edges[0], edges[1], edges[2]


def _fullest(case: ShownCase, axis: int) -> int:
    """The slice with the most labels and, among those, with the most labelled voxels. Without masks: the middle."""
    others = tuple({0, 1, 2} - {axis})
    arrays = [array for array in (case.reference, case.prediction) if array is not None and (array > 0).any()]
    if not arrays:
        return case.image.shape[axis] // 2
    truth = arrays[0]
    counts = np.count_nonzero(truth > 0, axis=others)
    kinds = sum((truth == value).any(axis=others).astype(int) for value in np.unique(truth[truth > 0]))
    return int(np.argmax(kinds * (counts.max() + 1) + counts))


def _plane(array: np.ndarray, box: Box, axis: int, place: int) -> np.ndarray:
    """A slice (rows, columns) as it is shown: superior or anterior is up."""
    across = tuple(slice(place, place + 1) if one == axis else edge for one, edge in enumerate(box))
    plane = array[across].squeeze(axis)
    return plane if axis == 0 else np.flip(plane, 0)


def _draw_image(axes: "Axes", case: ShownCase, box: Box, axis: int, place: int) -> float:
    """Draw the scan. Returns the height of a voxel divided by its width."""
    rows, columns = (one for one in range(3) if one != axis)
    aspect = case.geometry.spacing[rows] / case.geometry.spacing[columns]
    grey = _plane(case.image, box, axis, place)
    low, high = case.window
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
    axes.set_axis_off()
    axes.set_anchor("N")
    letters = zip(PLANES[axis][1], ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True)
    for letter, (x, y) in letters:
        style: dict[str, Any] = {"color": "#ffd34d", "ha": "center", "va": "center", "fontsize": 9}
        axes.text(x, y, letter, transform=axes.transAxes, **style)
    return aspect


def _draw_masks(axes: "Axes", case: ShownCase, box: Box, axis: int, place: int) -> None:
    _draw_image(axes, case, box, axis, place)
    predicted = _plane(case.prediction, box, axis, place)
    truth = None if case.reference is None else _plane(case.reference, box, axis, place)
    for position, values in enumerate(case.parts.values()):
        colour = label_colour(position)
        _outline(axes, mask_of(predicted, values), colors=[colour], linewidths=1.6)
        if truth is not None:
            _outline(axes, mask_of(truth, values), colors=["white"], linewidths=0.9, linestyles="--")
    axes.set_xlim(-0.5, predicted.shape[1] - 0.5)
    axes.set_ylim(predicted.shape[0] - 0.5, -0.5)


def _outline(axes: "Axes", mask: np.ndarray, **style: Any) -> None:
    if mask.any():
        padded = np.pad(mask.astype(float), 1)  # so a mask at the border has an outline there
        x, y = (np.arange(-1, size + 1) for size in (mask.shape[1], mask.shape[0]))
        axes.contour(x, y, padded, [0.5], **style)


def _draw_uncertainty(axes: "Axes", case: ShownCase, box: Box, axis: int, place: int) -> None:
    assert case.uncertainty is not None
    aspect = _draw_image(axes, case, box, axis, place)
    doubt = _plane(case.uncertainty, box, axis, place)
    most = float(case.uncertainty.max()) or 1.0
    opacity = np.clip(2 * doubt / most, 0, 0.85)  # where the model is certain, the scan is seen
    axes.imshow(doubt, cmap="inferno", vmin=0, vmax=most, alpha=opacity, aspect=aspect, interpolation="nearest")
