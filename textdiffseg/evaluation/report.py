"""Scores of many cases: their means, `summary.json`, and a table for the screen."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from plans.records import Record
from textdiffseg.evaluation.metrics import (
    BOTH_EMPTY,
    EMPTY_RULE,
    HD95_DEFINITION,
    NSD_DEFINITION,
    PREDICTION_EMPTY,
    REFERENCE_EMPTY,
    TOO_LARGE,
    CaseScores,
    LabelScores,
    surfaces_available,
)

if TYPE_CHECKING:
    from rich.table import Table

NO_SURFACES = "NSD and HD95 were not measured: MONAI is not installed (pip install monai)."


class MeanScores(Record):
    """Means over the cases in which each score is defined."""

    dice: float | None
    nsd: float | None
    hd95: float | None  # mm
    volume_ml: float | None = None
    reference_ml: float | None = None
    scored: int  # cases with a Dice
    both_empty: int  # cases where the label is rightly absent, left out of the means
    one_empty: int  # cases where only one of the two masks has the label: Dice 0, no HD95


class Summary(Record):
    """What `summary.json` holds."""

    version: Literal[1] = 1
    tolerance_mm: float
    empty_rule: str = EMPTY_RULE
    nsd_definition: str = NSD_DEFINITION
    hd95_definition: str = HD95_DEFINITION
    notes: tuple[str, ...] = ()
    mean: MeanScores  # over the labels' means, every label weighing the same
    labels: dict[str, MeanScores]
    cases: tuple[CaseScores, ...]


def summarise(cases: Sequence[CaseScores], tolerance_mm: float = 1.0, notes: Sequence[str] = ()) -> Summary:
    """Means a label over the cases, and the mean of these over the labels."""
    names = dict.fromkeys(name for case in cases for name in case.labels)
    labels = {name: _label_mean([case.labels[name] for case in cases if name in case.labels]) for name in names}
    parts = labels.values()
    mean = MeanScores(
        dice=_mean(part.dice for part in parts),
        nsd=_mean(part.nsd for part in parts),
        hd95=_mean(part.hd95 for part in parts),
        scored=sum(part.scored for part in parts),
        both_empty=sum(part.both_empty for part in parts),
        one_empty=sum(part.one_empty for part in parts),
    )
    if not surfaces_available():
        notes = (*notes, NO_SURFACES)
    if large := sum(scores.note == TOO_LARGE for case in cases for scores in case.labels.values()):
        notes = (*notes, f"{large} labels of cases were {TOO_LARGE}: NSD and HD95 leave them out.")
    ordered = tuple(sorted(cases, key=lambda case: case.case))
    return Summary(tolerance_mm=tolerance_mm, notes=tuple(notes), mean=mean, labels=labels, cases=ordered)


def _label_mean(scores: Sequence[LabelScores]) -> MeanScores:
    return MeanScores(
        dice=_mean(score.dice for score in scores),
        nsd=_mean(score.nsd for score in scores),
        hd95=_mean(score.hd95 for score in scores),
        volume_ml=_mean(score.volume_ml for score in scores),
        reference_ml=_mean(score.reference_ml for score in scores),
        scored=sum(score.dice is not None for score in scores),
        both_empty=sum(score.note == BOTH_EMPTY for score in scores),
        one_empty=sum(score.note in (PREDICTION_EMPTY, REFERENCE_EMPTY) for score in scores),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summary_table(summary: Summary) -> "Table":
    """A rich table: one row a label and the mean."""
    table = _table(f"Mean over {len(summary.cases)} cases", summary.tolerance_mm, "label", "scored", "one empty")
    for name, part in summary.labels.items():
        volumes = (_ml(part.volume_ml), _ml(part.reference_ml))
        table.add_row(name, *_scores(part), *volumes, str(part.scored), str(part.one_empty))
    table.add_section()
    mean = summary.mean
    table.add_row("mean of labels", *_scores(mean), "", "", str(mean.scored), str(mean.one_empty), style="bold")
    return table


def cases_table(summary: Summary) -> "Table":
    """A rich table: one row a case and label."""
    table = _table("Cases", summary.tolerance_mm, "case", "note")
    for case in summary.cases:
        for position, (name, scores) in enumerate(case.labels.items()):
            row = (*_scores(scores), _ml(scores.volume_ml), _ml(scores.reference_ml), scores.note)
            table.add_row("" if position else case.case, name, *row)
        table.add_section()
    return table


def _table(title: str, tolerance_mm: float, kind: str, *after: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(kind)
    if kind == "case":
        table.add_column("label")
    for name in ("Dice", f"NSD {tolerance_mm:g} mm", "HD95 mm", "ml", "reference ml"):
        table.add_column(name, justify="right")
    for name in after:
        table.add_column(name, justify="left" if name == "note" else "right")
    return table


def _scores(scores: LabelScores | MeanScores) -> tuple[str, str, str]:
    def digits(value: float | None, count: int) -> str:
        return "–" if value is None else f"{value:.{count}f}"

    return digits(scores.dice, 4), digits(scores.nsd, 4), digits(scores.hd95, 2)


def _ml(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
