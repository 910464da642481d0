"""The difference between the scores of two presets, paired by case."""

from collections.abc import Mapping, Sequence

from plans.errors import UserError
from textdiffseg.evaluation.comparison import Comparison, Difference, compare
from textdiffseg.pictures import label_colour
from textdiffseg.report.page import Html, element, figure, folded, join, notes, paragraphs, table
from textdiffseg.report.plots import ROW_INCHES, image, name_rows, new_figure, tidy
from textdiffseg.report.results import PresetResults
from textdiffseg.report.scores import SCORES, UNDEFINED, number

ALL_LABELS = "all labels"


def comparisons(ours: PresetResults, others: Sequence[PresetResults]) -> Html:
    """One part for each other preset that is scored."""
    return join(_against(ours, other) for other in others if other.scores)


def _against(ours: PresetResults, other: PresetResults) -> Html:
    title = element("h3", f"{ours.name} against {other.name}")
    try:
        found = compare(ours.cases, other.cases, other.name)
    except UserError:
        return join((title, notes([f"{other.name} has no scored case with the same labels. Validate the same fold."])))
    rows = {ALL_LABELS: found.mean} | found.labels
    left_out = [
        f"Only {name} has scores of {len(cases)} cases. They are not compared."
        for name, cases in ((ours.name, found.only_first), (other.name, found.only_second))
        if cases
    ]
    tables = (_table(rows, field, ours.name, other.name) for field in SCORES)
    body = (_verdict(found, ours.name, other.name), _forest(rows, ours.name, other.name), notes(left_out))
    details = folded("Table of the differences", *tables, paragraphs(found.rule))
    return join((title, *body, details))


def _verdict(found: Comparison, ours: str, other: str) -> Html:
    """The difference of the mean Dice, in words."""
    dice = found.mean["dice"]
    if dice.difference is None or dice.interval_95 is None:
        return paragraphs("There are too few common cases for an interval.")
    low, high = dice.interval_95
    better = ours if low > 0 else other if high < 0 else None
    meaning = f"{better} is better" if better else "the interval contains 0, so the cases do not show which is better"
    return paragraphs(
        f"Over {dice.cases} common cases, the mean Dice of {ours} minus that of {other} is {dice.difference:+.4f} "
        f"(95% interval {low:+.4f} to {high:+.4f}): {meaning}."
    )


def _forest(rows: Mapping[str, Mapping[str, Difference]], ours: str, other: str) -> Html:
    """The differences of Dice with their intervals."""
    drawn = new_figure(1 + ROW_INCHES * len(rows))
    axes = drawn.subplots()
    for row, scores in enumerate(rows.values()):
        one, colour = scores["dice"], label_colour(0 if row else 3)
        if one.difference is not None:
            axes.plot(one.difference, row, "o", color=colour)
        if one.interval_95 is not None:
            axes.hlines(row, *one.interval_95, color=colour, linewidth=2)
    axes.axvline(0, color="gray", linewidth=1)
    name_rows(axes, list(rows))
    axes.set_xlabel("difference of Dice, right of 0: the first is better")
    tidy(axes, "x")
    caption = f"Mean difference of Dice ({ours} minus {other}) over the common cases, with its 95% interval."
    return figure(image(drawn, "Differences of Dice with intervals"), caption)


def _table(rows: Mapping[str, Mapping[str, Difference]], field: str, ours: str, other: str) -> Html:
    cells = []
    for name, scores in rows.items():
        one, interval = scores[field], UNDEFINED
        if one.interval_95 is not None:
            interval = f"{one.interval_95[0]:+.4f} to {one.interval_95[1]:+.4f}"
        gap = UNDEFINED if one.difference is None else f"{one.difference:+.4f}"
        cells.append((name, str(one.cases), number(one.first), number(one.second), gap, interval, number(one.p)))
    return table((SCORES[field], "cases", ours, other, "difference", "95% interval", "p"), cells)
