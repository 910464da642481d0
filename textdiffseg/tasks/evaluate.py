"""Score predictions against references."""

from pathlib import Path

from textdiffseg.evaluation.folders import evaluate_folders
from textdiffseg.evaluation.report import Summary
from textdiffseg.files import write_record
from textdiffseg.leftovers import sweep


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    tolerance_mm: float = 1.0,
    partial: bool = False,
    workers: int = 0,
    output: str | Path | None = None,
) -> Summary:
    """Dice, NSD, HD95 and volumes of every case and label, and their means.

    Args:
        predictions: a folder of segmentations, or one file; a manifest beside each says what was queried.
        references: a folder of files of the same names, or one file; a `dataset.json` in or above it names labels.
        tolerance_mm: surfaces this close count as equal in NSD.
        partial: leave references without a prediction out instead of raising.
        workers: processes; 0: this one.
        output: a JSON file for all scores.

    Raises `UserError` with all faults at once: missing predictions, unreadable files, grids or labels that differ.
    """
    summary = evaluate_folders(
        Path(predictions), Path(references), tolerance_mm, partial_predictions=partial, workers=workers
    )
    if output is not None:
        sweep([Path(output).parent])
        write_record(Path(output), summary)
    return summary
