"""Tables of scores for the screen. A name that is too long for one line continues on the next."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from plans.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from textdiffseg.evaluation.comparison import Comparison, Difference
    from textdiffseg.evaluation.metrics import LabelScores
    from textdiffseg.evaluation.summary import MeanScores, Summary

MAX_NAME_COLUMNS = 28  # of 80
RATER_COLUMNS = {"best\nDice": "best_dice", "GED2": "ged2"}  # of scores against several references
MAX_LESION_NAME_COLUMNS, MAX_COMPARED_NAME_COLUMNS = 20, 24  # of 80, in the tables with these scores
SCORE_NAMES = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95", "lesion_dice": "lesion Dice", "lesion_f1": "lesion F1"}
_MEAN = "mean of labels"


def summary_table(summary: "Summary") -> "Table":
    """The mean scores: one row per label, then their mean."""
    count, names = len(summary.cases), (*summary.labels, _MEAN)
    title = f"Mean over {count} case{'' if count == 1 else 's'}"
    mean = summary.mean
    raters = _rater_columns(mean)
    table = _table(title, summary.tolerance_mm, "label", names, "scored", "one\nempty", *raters)
    for name, label_scores in summary.labels.items():
        volumes = (_ml(label_scores.volume_ml), _ml(label_scores.reference_ml))
        counts = (str(label_scores.scored), str(label_scores.one_empty))
        table.add_row(
            name,
            *_scores(label_scores),
            *volumes,
            *counts,
            *(decimals(getattr(label_scores, key)) for key in raters.values()),
        )
    table.add_section()
    counts = (str(mean.scored), str(mean.one_empty))
    rater_scores = (decimals(getattr(mean, key)) for key in raters.values())
    table.add_row(_MEAN, *_scores(mean), "", "", *counts, *rater_scores, style="bold")
    return table


def _rater_columns(mean: "MeanScores") -> dict[str, str]:
    """The columns of scores against several references, and their fields; {} if no case has several."""
    if not mean.several:
        return {}
    return {name: field for name, field in RATER_COLUMNS.items() if field != "ged2" or mean.ged2 is not None}


def cases_table(summary: "Summary") -> "Table":
    """The scores of each case: a row with its name, then one row per label."""
    names = [*(case.case for case in summary.cases), *(f"  {name}" for name in summary.labels)]
    table = _table("Cases", summary.tolerance_mm, "case, label", names, "note")
    for case in summary.cases:
        table.add_row(printable(case.case), style="bold")
        for name, scores in case.labels.items():
            row = (*_scores(scores), _ml(scores.volume_ml), _ml(scores.reference_ml), scores.note)
            table.add_row(f"  {name}", *row)
        table.add_section()
    return table


def lesions_table(summary: "Summary") -> "Table":
    """The scores of single lesions: one row per label that they were requested for, then their mean."""
    means = {
        name: label_scores.lesions for name, label_scores in summary.labels.items() if label_scores.lesions is not None
    }
    if len(means) > 1 and summary.mean.lesions is not None:
        means[_MEAN] = summary.mean.lesions
    table = _plain_table("Lesions", "label", means, MAX_LESION_NAME_COLUMNS)
    for name in ("Dice", "precision", "recall", "F1", "predicted", "reference", "matched"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, label_scores in means.items():
        scores = (
            decimals(value)
            for value in (label_scores.dice, label_scores.precision, label_scores.recall, label_scores.f1)
        )
        counts = (f"{count:g}" for count in (label_scores.predicted, label_scores.reference, label_scores.matched))
        table.add_row(label, *scores, *counts, style="bold" if label == _MEAN else None)
    return table


def comparison_table(comparison: "Comparison") -> "Table":
    """The differences between two sets of segmentations. Each label has a row with its name, then one per score."""
    rows = comparison.labels | {_MEAN: comparison.mean}
    names = (*rows, *(f"  {name}" for name in SCORE_NAMES.values()))
    title = f"Difference from {comparison.against}"
    table = _plain_table(title, "label, score", names, MAX_COMPARED_NAME_COLUMNS)
    for name in ("cases", "first", "other", "difference", "95% interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, scores in rows.items():
        table.add_row(label, style="bold")
        for score, difference in scores.items():
            table.add_row(f"  {SCORE_NAMES[score]}", *_difference(difference, 2 if score == "hd95" else 4))
        table.add_section()
    return table


def _difference(scores: "Difference", digits: int) -> tuple[str, ...]:
    means = (decimals(value, digits) for value in (scores.first, scores.second))
    difference = "–" if scores.difference is None else f"{scores.difference:+.{digits}f}"
    interval = " ".join(f"{value:+.{digits}f}" for value in scores.interval_95 or ()) or "–"
    p = "–" if scores.p is None else "<.0001" if scores.p < 1e-4 else f"{scores.p:.4f}"
    return (str(scores.cases), *means, difference, interval, p)


def _plain_table(title: str, kind: str, names: Collection[str], most: int) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column(kind, overflow="fold", width=min(most, max(map(len, (kind, *names)))))
    return table


def _table(title: str, tolerance_mm: float, kind: str, names: Collection[str], *after: str) -> "Table":
    most = MAX_NAME_COLUMNS - 6 * sum(name in RATER_COLUMNS for name in after)  # 80 columns in all
    table = _plain_table(title, kind, names, most)
    for name in ("Dice", f"NSD\n{tolerance_mm:g} mm", "HD95\nmm", "volume\nml", "ref.\nml"):
        table.add_column(name, justify="right", min_width=6, no_wrap=True)
    for name in after:
        scores = name in RATER_COLUMNS
        table.add_column(
            name, justify="left" if name == "note" else "right", min_width=6 if scores else None, no_wrap=scores
        )
    return table


def _scores(scores: "LabelScores | MeanScores") -> tuple[str, str, str]:
    return decimals(scores.dice), decimals(scores.nsd), decimals(scores.hd95, 2)


def decimals(value: float | None, count: int = 4) -> str:
    """A score with this number of decimals; a dash if it is not defined."""
    return "–" if value is None else f"{value:.{count}f}"


def _ml(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
