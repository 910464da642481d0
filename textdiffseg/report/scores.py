"""Scores of segmented cases for each label: box plots, means, volumes and single lesions."""

from collections.abc import Mapping, Sequence

import numpy as np

from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.pictures import add_legend, label_colour, shorten
from textdiffseg.report.page import Html, element, figure, folded, join, paragraphs, table
from textdiffseg.report.plots import ROW_INCHES, draw_boxes, image, name_rows, new_figure, scale_axis, tidy

SCORES = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95 (mm)"}  # field of `LabelScores` -> title
UNDEFINED = "-"
MAX_NAMES = 20  # in a legend


def number(value: float | None, digits: int = 3) -> str:
    """A score as text."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def labels_of(cases: Sequence[CaseScores]) -> list[str]:
    """The names of all scored labels."""
    return list(dict.fromkeys(name for case in cases for name in case.labels))


def of_label(cases: Sequence[CaseScores], name: str) -> list[LabelScores]:
    """The scores of one label, in the cases that have it."""
    return [case.labels[name] for case in cases if name in case.labels]


def box_plots(sets: Mapping[str, Sequence[CaseScores]]) -> Html:
    """Box plots of Dice, NSD and HD95 for each label; one colour per set of cases."""
    names = labels_of(next(iter(sets.values())))
    drawn = new_figure(1.2 + (ROW_INCHES + 0.14 * (len(sets) - 1)) * len(names))
    panels = drawn.subplots(1, len(SCORES), sharey=True)
    size = 0.85 / len(sets)
    for axes, (field, title) in zip(panels, SCORES.items(), strict=True):
        for position, cases in enumerate(sets.values()):
            rows = np.arange(len(names)) + (position - (len(sets) - 1) / 2) * size
            values = [_values(cases, name, field) for name in names]
            draw_boxes(axes, rows.tolist(), values, label_colour(position), size)
        axes.set_title(title, fontsize=10)
        tidy(axes, "x")
    name_rows(panels[0], names)
    if len(sets) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=label_colour(position)) for position in range(len(sets))]
        place = {"loc": "outside lower center", "ncols": len(sets), "frameon": False}
        add_legend(drawn, handles, map(shorten, sets), **place)
    caption = (
        "Each dot is a validation case. A box holds the middle half of the cases, and its thick line is the median. "
        "Dice and NSD: 1 is perfect. HD95: a small distance is good. A label that only one of the two masks holds "
        "scores Dice 0."
    )
    return figure(image(drawn, "Box plots of the scores of each label"), caption)


def _values(cases: Sequence[CaseScores], name: str, field: str) -> np.ndarray:
    found = [getattr(scores, field) for scores in of_label(cases, name)]
    return np.array([value for value in found if value is not None], dtype=float)


def scores_table(cases: Sequence[CaseScores], summaries: Sequence[Summary]) -> Html:
    """The mean scores of each label. `summaries`: in which the scores were stored, with their definitions."""
    summary = summarise(cases)
    rows = []
    for name, mean in summary.labels.items():
        dice = _values(cases, name, "dice")
        middle = "{:.3f} to {:.3f}".format(*np.percentile(dice, (25, 75))) if len(dice) else UNDEFINED
        found = (name, str(mean.scored), number(mean.dice), middle, number(mean.nsd), number(mean.hd95, 1))
        rows.append((*found, number(mean.volume_ml, 1), number(mean.reference_ml, 1), str(mean.one_empty)))
    mean = summary.mean
    rows.append(("mean of the labels", "", number(mean.dice), "", number(mean.nsd), number(mean.hd95, 1), "", "", ""))
    head = (
        "label",
        "cases",
        "Dice",
        "middle half",
        "NSD",
        "HD95 (mm)",
        "predicted ml",
        "reference ml",
        "in one mask only",
    )
    return join((table(head, rows), folded("How the scores are defined", paragraphs(*_definitions(summaries)))))


def _definitions(summaries: Sequence[Summary]) -> tuple[str, ...]:
    lines: list[str] = []
    for summary in summaries:
        tolerance = f"The tolerance of NSD is {summary.tolerance_mm:g} mm."
        distance = f"HD95: {summary.hd95_definition}"
        lines += (summary.empty_rule, f"NSD: {summary.nsd_definition} {tolerance}", distance, *summary.notes)
    return tuple(dict.fromkeys(lines))


def volumes(cases: Sequence[CaseScores], names: Sequence[str]) -> Html:
    """A scatter plot of predicted and reference volumes, of the masks that both have a label.

    `names`: of the labels, in the order that gives them their colours.
    """
    pairs: dict[str, np.ndarray] = {}
    for name in names:
        both = [score for score in of_label(cases, name) if score.reference_ml and score.volume_ml]
        pairs[name] = np.array([(score.reference_ml, score.volume_ml) for score in both])
    found = [(position, name) for position, name in enumerate(pairs) if len(pairs[name])]
    if not found:
        return Html("")
    drawn = new_figure(4.2)
    axes = drawn.subplots()
    everything = np.concatenate([pairs[name] for _, name in found])
    edges = (everything.min(), everything.max())
    axes.plot(edges, edges, "--", color="gray", lw=1)
    handles = [
        axes.plot(*pairs[name].T, "o", color=label_colour(position), alpha=0.7, markersize=4)[0]
        for position, name in found
    ]
    axes.set_xlabel(f"reference volume (ml){scale_axis(axes, 'x', everything.ravel())}")
    axes.set_ylabel(f"predicted volume (ml){scale_axis(axes, 'y', everything.ravel())}")
    if len(found) <= MAX_NAMES:
        place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "fontsize": "small"}
        add_legend(axes, handles, [shorten(name) for _, name in found], **place)
    tidy(axes)
    caption = "On the dashed line both volumes are equal. Above it, the prediction is too large."
    return figure(image(drawn, "Predicted and reference volumes"), caption)


def lesions(summary: Summary) -> Html:
    """The scores of single lesions; empty if they were not scored."""
    if summary.mean.lesions is None:
        return Html("")
    rows = []
    for name, mean in summary.labels.items():
        one = mean.lesions
        if one is not None:
            shares = (number(value) for value in (one.recall, one.precision, one.f1, one.dice))
            known = sum(own.lesions is not None for own in of_label(summary.cases, name))
            counts = (f"{count:g}" for count in (one.reference, one.predicted, one.matched))
            rows.append((name, str(known), *shares, *counts))
    head = ("label", "cases", "recall", "precision", "F1", "Dice", "in the references", "predicted", "matched")
    return join((element("h3", "Single lesions"), table(head, rows), paragraphs(summary.lesion_rule or "")))
