"""Scores as tables for the screen."""

from typing import TYPE_CHECKING

from plans.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from textdiffseg.evaluation.metrics import LabelScores
    from textdiffseg.evaluation.report import MeanScores, Summary


def summary_table(summary: "Summary") -> "Table":
    """A rich table: one row a label and the mean."""
    table = _table(f"Mean over {len(summary.cases)} cases", summary.tolerance_mm, "label", "scored", "one empty")
    for name, part in summary.labels.items():
        volumes = (_ml(part.volume_ml), _ml(part.reference_ml))
        table.add_row(name, *_scores(part), *volumes, str(part.scored), str(part.one_empty))
    table.add_section()
    mean = summary.mean
    table.add_row("mean of labels", *_scores(mean), "", "", str(mean.scored), str(mean.one_empty), style="bold")
    return table


def cases_table(summary: "Summary") -> "Table":
    """A rich table: one row a case and label."""
    table = _table("Cases", summary.tolerance_mm, "case", "note")
    for case in summary.cases:
        for position, (name, scores) in enumerate(case.labels.items()):
            row = (*_scores(scores), _ml(scores.volume_ml), _ml(scores.reference_ml), scores.note)
            table.add_row("" if position else printable(case.case), name, *row)
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


def _scores(scores: "LabelScores | MeanScores") -> tuple[str, str, str]:
    def digits(value: float | None, count: int) -> str:
        return "–" if value is None else f"{value:.{count}f}"

    return digits(scores.dice, 4), digits(scores.nsd, 4), digits(scores.hd95, 2)


def _ml(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
