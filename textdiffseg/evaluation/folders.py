"""Score a folder of predictions against a folder of references, file by file."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from plans.annotation import Annotation, annotations_of
from plans.case_files import by_stem, names_in, unread
from plans.dataset import is_plain_name
from plans.errors import UserError, listed, merged
from plans.file_names import FILE_ENDINGS, split_ending
from plans.header import DatasetHeader, labels_of
from plans.layout import RawFolder
from plans.regions import values_of
from textdiffseg.evaluation.answers import PredictedLabels, ScoredLabels, answers_of, shared_names
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.report import Summary, summarise


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
    found = {case: PredictedLabels.beside(prediction) for case, (prediction, _) in pairs.items()}
    manifests = {case: one or PredictedLabels() for case, one in found.items()}
    if foreign := [f"{case}.json" for case, one in found.items() if one is None]:
        notes.append(f"JSON files beside predictions that tds_predict did not write are not read: {listed(foreign)}.")
    annotations, own = read_annotations(Path(references), tuple(pairs), Path(predictions)) or (None, {})
    if annotations is None:
        names = shared_names(manifests.values())
        notes.append(_whose_names(names))
        values = _label_values(list(pairs.values()), list(pairs), workers)
        own = {names.get(value, str(value)): value for value in sorted({*values, *names})}
        annotations = dict.fromkeys(pairs, Annotation(values=own, annotated=tuple(own)))
    answers = {case: answers_of(manifests[case], own, annotations[case].annotated) for case in pairs}
    notes += dict.fromkeys(note for one in answers.values() for note in one.notes)
    if left_out := {name for case in pairs for name in {*annotations[case].annotated} - {*answers[case].labels}}:
        notes.append(f"Not asked for in all predictions, and not scored there: {', '.join(sorted(left_out))}.")
    if own and not any(one.labels for one in answers.values()):
        raise UserError(f"No prediction was asked for a label of the references ({', '.join(own)}).")
    tasks = [(case, *paths, annotations[case], answers[case]) for case, paths in pairs.items()]
    score = partial(_score_files, tolerance_mm=tolerance_mm)
    cases = tuple(run_cases(score, tasks, list(pairs), workers))
    return summarise(cases, tolerance_mm, notes)


def _whose_names(names: Mapping[int, str]) -> str:
    """A sentence on the labels' names where no `dataset.json` gives them."""
    if names:
        return (
            "No dataset.json beside or above the references: names are those of the predictions' JSON files, and the "
            "references must have the same values."
        )
    return "No dataset.json beside or above the references: labels are shown by their values."


def match_files(
    predictions: Path, references: Path, partial_predictions: bool = False
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """{case: (prediction, reference)} and notes about files that are left out."""
    if predictions.is_file() and references.is_file():
        return {split_ending(references.name)[0]: (predictions, references)}, []
    predicted, expected = _label_files(predictions), _label_files(references)
    missing = [case for case in expected if case not in predicted]
    if missing and not partial_predictions:
        faults = merged((case, f"{predictions} has no prediction for {expected[case]}.") for case in missing)
        raise UserError(*faults, "Predict these cases, or score only what there is with --partial.")
    pairs = {case: (predicted[case], expected[case]) for case in expected if case in predicted}
    if not pairs:
        raise UserError(
            f"No file of {predictions} has the name of a file of {references}: "
            f"{_examples(predicted)} against {_examples(expected)}."
        )
    notes = [f"{len(missing)} references without a prediction are left out."] if missing else []
    notes += unread(references, (name for name in names_in(references) if (references / name).is_file()))
    if extra := len(set(predicted) - set(expected)):
        notes.append(f"{extra} predictions without a reference are left out.")
    return pairs, notes


def read_annotations(
    references: Path, cases: Sequence[str], predictions: Path | None = None
) -> tuple[dict[str, Annotation], dict[str, int]] | None:
    """The annotation of each case by `dataset.json`, and the value that predictions write for each label.

    The file lies in or above the references' folder; else in that of the predictions, where nnU-Net puts it. `None`
    where there is none.

    Ignored voxels and labels that a case does not annotate are not scored.
    """
    folder = (references.parent if references.is_file() else references).resolve()
    places = [folder, folder.parent, *([] if predictions is None else [predictions])]
    path = next((path for one in places if (path := RawFolder(one).header).is_file()), None)
    if path is None:
        return None
    header = DatasetHeader.read(path)
    faults: list[str] = []
    table = labels_of(header, str(path), faults)
    elsewhere = {case for field in (header.annotated, header.absent) if isinstance(field, dict) for case in field}
    annotations = annotations_of(header, table, cases, elsewhere - set(cases), str(path), faults)
    if faults:
        raise UserError(*faults)
    return annotations, {label.name: label.value for label in table.labels}


def _label_files(folder: Path) -> dict[str, Path]:
    """The segmentations of a folder, by case."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give two folders of segmentations, or two files.")
    faults: list[str] = []
    files = {case: folder / name for case, name in by_stem(folder, names_in(folder), faults).items()}
    files = {case: path for case, path in files.items() if path.is_file()}
    faults += [
        f"{folder}: the folder {case} and {path.name} would be one case. Move one of them away."
        for case, path in files.items()
        if (folder / case).is_dir()
    ]
    faults += [
        f"{path}: expected a name of printable characters in UTF-8. Rename it."
        for case, path in files.items()
        if not is_plain_name(case)
    ]
    if faults:
        raise UserError(*faults)
    if not files:
        raise UserError(f"{folder} holds no segmentation ({', '.join(FILE_ENDINGS)}).")
    return files


def _examples(files: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in list(files.values())[:3])


def _label_values(pairs: list[tuple[Path, Path]], cases: list[str], workers: int) -> list[int]:
    from textdiffseg.execution import run_cases

    found: set[int] = set()
    for values in run_cases(_values_of, pairs, cases, workers):
        found |= values
    return sorted(found - {0})


def _values_of(pair: tuple[Path, Path]) -> set[int]:
    from textdiffseg.imaging.sources.files import read_labels

    return {int(value) for path in pair for value in np.unique(read_labels(path).array)}


def _score_files(task: tuple[str, Path, Path, Annotation, ScoredLabels], tolerance_mm: float) -> CaseScores:
    from textdiffseg.imaging.sources.files import read_labels
    from textdiffseg.imaging.volume import describe

    case, predicted_path, expected_path, annotation, answers = task
    predicted, expected = read_labels(predicted_path), read_labels(expected_path)
    if not predicted.geometry.matches(expected.geometry):
        raise UserError(
            f"{predicted_path} lies on another grid ({describe(predicted.geometry)}) than {expected_path} "
            f"({describe(expected.geometry)}). Predict the very scan that the reference was drawn on."
        )
    prediction, reference = answers.translated(predicted.array[0]), expected.array[0]
    values = annotation.values.values() if annotation.regions is None else values_of(annotation.regions)
    faults = []
    known, ignore = {0, *values}, annotation.ignore
    for path, array, allowed in (
        (predicted_path, prediction, known),
        (expected_path, reference, known | ({ignore} - {None})),
    ):
        if unknown := sorted(set(np.unique(array).tolist()) - allowed):
            faults.append(
                f"{path} has the label values {listed(unknown)}; dataset.json names {listed(sorted(allowed))}: "
                "is it of the same data set?"
            )
    if faults:
        raise UserError(*faults)
    if ignore is not None:
        reference = np.where(reference == ignore, -1, reference.astype(np.int64))
    labels = {annotation.values[name]: name for name in answers.labels}
    return score_case(prediction, reference, expected.geometry.spacing, labels, tolerance_mm, case=case)
