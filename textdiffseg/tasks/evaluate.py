"""Scores of predictions against references."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError, printable
from plans.file_names import FILE_ENDINGS, split_ending
from plans.layout import RawFolder, volume_table
from textdiffseg.arguments import path_of, positive, several, whole
from textdiffseg.evaluation.comparison import compare
from textdiffseg.evaluation.folders import evaluate_folders
from textdiffseg.evaluation.matching import match_files
from textdiffseg.evaluation.summary import Summary, to_csv
from textdiffseg.extras import require
from textdiffseg.failures import failure_line
from textdiffseg.files import check_place, write_atomically, write_record
from textdiffseg.leftovers import sweep
from textdiffseg.progress import Cancel, OnProgress, never, silent


class ScoresNotWrittenError(UserError):
    """The scores are complete, but their file cannot be written."""

    def __init__(self, *lines: str, summary: Summary | None = None):
        super().__init__(*lines)
        self.summary = summary


@dataclass(frozen=True)
class _Scoring:
    """How segmentations are scored: the references and the options of `evaluate_folders`."""

    references: Path
    tolerance_mm: float
    lesions: tuple[str, ...] | None
    workers: int
    progress: OnProgress
    cancel: Cancel

    def score(self, predictions: Path, partial_predictions: bool) -> Summary:
        """The scores of a folder of segmentations, or of one file."""
        return evaluate_folders(
            predictions,
            self.references,
            self.tolerance_mm,
            partial_predictions=partial_predictions,
            lesions=self.lesions,
            workers=self.workers,
            progress=self.progress,
            cancel=self.cancel,
        )


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    tolerance_mm: float = 1.0,
    partial: bool = False,
    against: str | Path | None = None,
    lesions: Collection[str] | None = None,
    workers: int = 0,
    output: str | Path | None = None,
    csv: str | Path | None = None,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> Summary:
    """Dice, NSD, HD95 and volumes of every case and label, and their means.

    Args:
        predictions: a folder of segmentations, or one file; a manifest beside each lists the queried labels.
        references: a folder of files with the same names, or one file. A `dataset.json` in or above it names the
            labels; else the manifests of the predictions name them.
        tolerance_mm: surfaces this close count as equal in NSD.
        partial: leave out references without a prediction instead of raising an error.
        against: other segmentations of the same scans: a folder, or one file. The scores are compared case by case.
            Cases that only one of the two has are left out of the comparison, and a note names them. If the others
            cannot be scored, the scores of `predictions` are already written.
        lesions: names of the labels whose single lesions are scored, too; empty: all labels; None: no label.
        workers: the number of processes; 0: this process only.
        output: a JSON file for all scores.
        csv: a CSV file for the scores of all cases, one row per case and label.

    Raises `UserError` with all faults: missing predictions, unreadable files, grids or labels that differ. It needs the
    extra `report`. Raises `OSError` before the work if a file cannot be written, and `ScoresNotWrittenError`, which has
    the scores, if that happens after it.
    """
    tolerance_mm, workers = positive("tolerance_mm", tolerance_mm), whole("workers", workers)
    lesions = None if lesions is None else several(lesions)
    output, csv, against = (None if path is None else path_of(path) for path in (output, csv, against))
    _refuse_names(output, csv)
    require("report", "tds_evaluate", "surface_distance")
    for path in filter(None, (output, csv)):
        check_place(path)
    scoring = _Scoring(path_of(references), tolerance_mm, lesions, workers, progress, cancel)
    if against is not None:
        match_files(against, scoring.references, partial_predictions=True)  # faults are found before the work
    summary = scoring.score(path_of(predictions), partial)
    _write(summary, output, csv)
    if against is not None:
        summary = _compared(summary, scoring.score(against, partial_predictions=True), str(against))
        _write(summary, output)
    return summary


def _write(summary: Summary, output: Path | None, csv: Path | None = None) -> None:
    sweep({path.parent for path in (output, csv) if path is not None})
    try:
        if output is not None:
            write_record(output, summary)
        if csv is not None:
            write_atomically(csv, to_csv(summary))
    except OSError as error:
        line = failure_line(error, resumes=False) or f"The scores cannot be written: {error}."
        raise ScoresNotWrittenError(line, summary=summary) from error


def _compared(summary: Summary, other: Summary, against: str) -> Summary:
    """The summary with its comparison, and with the notes about the other segmentations."""
    found = compare(summary.cases, other.cases, printable(against))
    notes = [f"{found.against}: {note}" for note in other.notes if note not in summary.notes]
    for where, cases in (("the first segmentations", found.only_first), (found.against, found.only_second)):
        if cases:
            notes.append(f"Not compared, because only {where} have them: {', '.join(cases)}.")
    return summary.model_copy(update={"comparison": found, "notes": (*summary.notes, *notes)})


def _refuse_names(output: Path | None, csv: Path | None) -> None:
    """Raise `UserError` if the files of scores have one name, or the name of something that is scored."""
    if output is not None and csv is not None and output.resolve() == csv.resolve():
        raise UserError(f"{output}: the JSON file and the CSV file have the same name. Rename one of them.")
    for path in filter(None, (output, csv)):
        if path.is_dir():
            raise UserError(f"{path} is a folder. Give the name of a file for the scores.")
        _refuse_inputs(path)


def _refuse_inputs(path: Path) -> None:
    """Raise `UserError` where scores would replace an image or the JSON file beside one, or have a name in use."""
    beside = (path.with_name(f"{path.stem}{ending}") for ending in FILE_ENDINGS)
    used = (RawFolder(path.parent).header, volume_table(path.parent))
    if split_ending(path.name)[1] or path in used or any(image.exists() for image in beside):
        raise UserError(f"{path}: this name belongs to the data that is scored. Choose another one for the scores.")
