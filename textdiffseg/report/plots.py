"""Plots as data of an image element. Names are drawn literally (`textdiffseg.pictures`)."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from textdiffseg.pictures import Colour, shorten, write_plainly
from textdiffseg.report.page import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 10
ROW_INCHES = 0.34  # of one label in a plot with names at its left
MIN_LOG_RATIO = 20  # of the largest to the smallest value
PNG_DPI = 110
_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


def image(figure: "Figure", description: str, kind: Literal["svg", "png"] = "svg") -> Html:
    """An image element with the figure. `description` is for readers who cannot see it."""
    from matplotlib import rc_context

    picture, options = BytesIO(), {"metadata": {"Date": None}} if kind == "svg" else {"dpi": PNG_DPI}
    with rc_context({"svg.hashsalt": "textdiffseg"}):  # the same figure gives the same file
        figure.savefig(picture, format=kind, facecolor=figure.get_facecolor(), **options)
    data = b64encode(picture.getvalue()).decode()
    return Html(f'<img alt="{escape(description)}" src="data:{_TYPES[kind]};base64,{data}">')


def new_figure(height: float) -> "Figure":
    """An empty figure on white, `height` inches high and as wide as the page."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_INCHES, height), facecolor="white", layout="constrained")


def tidy(axes: "Axes", grid: Literal["x", "y", "both"] = "both") -> None:
    """Remove the frame's top and right, and add a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dde3ea", linewidth=0.8)
    axes.set_axisbelow(True)


def name_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... from top to bottom."""
    from matplotlib.ticker import FixedFormatter

    axes.set_yticks(range(len(names)), ["x"] * len(names))
    shown = []
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        write_plainly(text, shorten(name))
        shown.append(text.get_text())
    axes.yaxis.set_major_formatter(FixedFormatter(shown))  # else drawing would write "x" again
    axes.set_ylim(len(names) - 0.5, -0.5)


def scale_axis(axes: "Axes", which: Literal["x", "y"], values: np.ndarray) -> str:
    """Make an axis logarithmic if positive values (N,) differ much. Returns a word for its title."""
    from matplotlib.ticker import LogLocator, NullLocator

    if not len(values) or values.max() < MIN_LOG_RATIO * values.min():
        return ""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 1000 * values.min() else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
    return ", logarithmic"


def draw_boxes(axes: "Axes", rows: Sequence[float], values: Sequence[np.ndarray], colour: Colour, size: float) -> None:
    """Horizontal box plots, with each value as a dot. The whiskers reach the last value within 1.5 times the box.

    Args:
        axes: to draw on.
        rows: the height of each box.
        values: (N,) of each box; it may be empty.
        colour: of all boxes.
        size: of a box, in rows.
    """
    for row, one in zip(rows, values, strict=True):
        one = one[np.isfinite(one)]
        if not len(one):
            continue
        first, median, third = np.percentile(one, (25, 50, 75))
        reach = 1.5 * (third - first)
        low = min(first, one[one >= first - reach].min())
        high = max(third, one[one <= third + reach].max())
        axes.barh(row, third - first, 0.75 * size, first, facecolor=(*colour, 0.18), edgecolor=colour)
        axes.hlines([row, row], [low, third], [first, high], color=colour, linewidth=1.3)
        axes.vlines(median, row - 0.375 * size, row + 0.375 * size, color=colour, linewidth=2.4)
        spread = ((np.arange(len(one)) * 0.618) % 1 - 0.5) * size * 0.55  # the golden ratio spreads the dots evenly
        axes.plot(one, row + spread, "o", color=colour, markersize=2.6, alpha=0.55, markeredgewidth=0)
