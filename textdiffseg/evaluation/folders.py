"""Score a folder of predictions against a folder of references, file by file."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.header import FILE_ENDINGS, Header
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.report import Summary, summarise

_SHOWN = 10  # faults of one kind that are written out one by one


def evaluate_folders(
    predictions: Path,
    references: Path,
    tolerance_mm: float = 1.0,
    *,
    partial_predictions: bool = False,
    workers: int = 0,
) -> Summary:
    """Score every reference against the prediction of the same name; two files are scored as one case.

    With `partial_predictions`, references without a prediction are left out instead of being an error.

    Raises:
        UserError: nothing to score, missing predictions, unreadable files, grids that differ, unknown labels;
            all at once.
    """
    from textdiffseg.execution import run_cases

    pairs, notes = match_files(Path(predictions), Path(references), partial_predictions)
    labels = label_names(Path(references))
    tasks = [(case, *paths) for case, paths in pairs.items()]
    if labels is None:
        notes.append("No dataset.json beside or above the references: labels are shown by their values.")
        labels = _label_values(tasks, workers)
    score = partial(_score_files, labels=labels, tolerance_mm=tolerance_mm)
    cases = tuple(run_cases(score, tasks, [case for case, *_ in tasks], workers))
    return summarise(cases, tolerance_mm, notes)


def match_files(
    predictions: Path, references: Path, partial_predictions: bool = False
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """{case: (prediction, reference)} and notes about files that are left out."""
    if predictions.is_file() and references.is_file():
        return {_case(references): (predictions, references)}, []
    predicted, expected = _label_files(predictions), _label_files(references)
    missing = [case for case in expected if case not in predicted]
    if missing and not partial_predictions:
        faults = [f"{predictions} has no prediction for {expected[case]}." for case in missing[:_SHOWN]]
        if len(missing) > _SHOWN:
            faults.append(f"... and for {len(missing) - _SHOWN} more.")
        raise UserError(*faults, "Predict these cases, or score only what there is with --partial.")
    pairs = {case: (predicted[case], expected[case]) for case in expected if case in predicted}
    if not pairs:
        raise UserError(
            f"No file of {predictions} has the name of a file of {references}: "
            f"{_examples(predicted)} against {_examples(expected)}."
        )
    notes = [f"{len(missing)} references without a prediction are left out."] if missing else []
    if extra := len(set(predicted) - set(expected)):
        notes.append(f"{extra} predictions without a reference are left out.")
    return pairs, notes


def label_names(references: Path) -> dict[int, str] | None:
    """{value: name} from a `dataset.json` in or above the references' folder; `None` where there is none."""
    folder = (references.parent if references.is_file() else references).resolve()
    path = next((path for path in (folder / "dataset.json", folder.parent / "dataset.json") if path.is_file()), None)
    if path is None:
        return None
    entries = Header.read(path).labels
    if all(key.isdigit() and isinstance(value, str) for key, value in entries.items()):
        entries = {name: int(value) for value, name in entries.items()}  # the Decathlon's way round
    names = {int(value): name for name, value in entries.items() if isinstance(value, int) and value > 0}
    return names or None


def _case(path: Path) -> str:
    ending = next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending)


def _label_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give two folders of segmentations, or two files.")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {_case(path): path for path in paths if path.name.endswith(FILE_ENDINGS)}
    if not files:
        raise UserError(f"{folder} holds no segmentation ({', '.join(FILE_ENDINGS)}).")
    return files


def _examples(files: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in list(files.values())[:3])


def _label_values(tasks: list[tuple[str, Path, Path]], workers: int) -> dict[int, str]:
    from textdiffseg.execution import run_cases

    found: set[int] = set()
    for values in run_cases(_values_of, tasks, [case for case, *_ in tasks], workers):
        found |= values
    return {value: str(value) for value in sorted(found - {0})}


def _values_of(task: tuple[str, Path, Path]) -> set[int]:
    from textdiffseg.imaging.io import read_labels

    return {int(value) for path in task[1:] for value in np.unique(read_labels(path).array)}


def _score_files(task: tuple[str, Path, Path], labels: dict[int, str], tolerance_mm: float) -> CaseScores:
    from textdiffseg.imaging.io import describe, read_labels

    case, predicted_path, expected_path = task
    predicted, expected = read_labels(predicted_path), read_labels(expected_path)
    if not predicted.geometry.matches(expected.geometry):
        raise UserError(
            f"{predicted_path} lies on another grid ({describe(predicted.geometry)}) than {expected_path} "
            f"({describe(expected.geometry)}). Predict the very scan that the reference was drawn on."
        )
    faults = []
    for path, volume in ((predicted_path, predicted), (expected_path, expected)):
        if unknown := sorted(set(np.unique(volume.array).tolist()) - {0, *labels}):
            known = ", ".join(str(value) for value in labels)
            faults.append(f"{path} has label values {unknown}, dataset.json names 0, {known}.")
    if faults:
        raise UserError(*faults)
    arrays = (predicted.array[0], expected.array[0])
    return score_case(*arrays, expected.geometry.spacing, labels, tolerance_mm, case=case)
