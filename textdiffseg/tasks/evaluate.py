"""Scores of predictions against references."""

from pathlib import Path

from plans.errors import UserError
from textdiffseg.evaluation.folders import evaluate_folders
from textdiffseg.evaluation.report import Summary, to_csv
from textdiffseg.extras import require
from textdiffseg.files import write_atomically, write_record
from textdiffseg.leftovers import sweep


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    tolerance_mm: float = 1.0,
    partial: bool = False,
    workers: int = 0,
    output: str | Path | None = None,
    csv: str | Path | None = None,
) -> Summary:
    """Dice, NSD, HD95 and volumes of every case and label, and their means.

    Args:
        predictions: a folder of segmentations, or one file; a manifest beside each lists the queried labels.
        references: a folder of files with the same names, or one file. A `dataset.json` in or above it names the
            labels; else the manifests of the predictions name them.
        tolerance_mm: surfaces this close count as equal in NSD.
        partial: leave out references without a prediction instead of raising an error.
        workers: the number of processes; 0: this process only.
        output: a JSON file for all scores.
        csv: a CSV file for the scores of all cases, one row per case and label.

    Raises `UserError` with all faults: missing predictions, unreadable files, grids or labels that differ. It needs the
    extra `report`.
    """
    if output is not None and csv is not None and Path(output).resolve() == Path(csv).resolve():
        raise UserError(f"{output}: the JSON file and the CSV file have the same name. Rename one of them.")
    require("report", "tds_evaluate", "monai")
    summary = evaluate_folders(
        Path(predictions), Path(references), tolerance_mm, partial_predictions=partial, workers=workers
    )
    if output is not None:
        sweep([Path(output).parent])
        write_record(Path(output), summary)
    if csv is not None:
        write_atomically(Path(csv), to_csv(summary))
    return summary
