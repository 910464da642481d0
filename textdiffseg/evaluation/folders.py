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
    """The scores of every reference and the prediction of the same name.

    Args:
        predictions: a folder of segmentations, or one file.
        references: a folder, or one file. Two files are one case, whatever their names.
        tolerance_mm: of NSD.
        partial_predictions: leave out references without a prediction. Otherwise they are an error.
        workers: processes; 0 means no extra process.

    Raises:
        UserError: nothing to score, missing predictions, unreadable files, different grids, or unknown labels. All
            files are checked before it is raised.
    """
    from textdiffseg.execution import run_cases

    pairs, notes = match_files(Path(predictions), Path(references), partial_predictions)
    found = {case: PredictedLabels.beside(prediction) for case, (prediction, _) in pairs.items()}
    manifests = {case: one or PredictedLabels() for case, one in found.items()}
    if foreign := [f"{case}.json" for case, one in found.items() if one is None]:
        notes.append(
            f"tds_predict did not write these JSON files beside predictions, so they were not read: {listed(foreign)}."
        )
    annotations, own = read_annotations(Path(references), tuple(pairs), Path(predictions)) or (None, {})
    if annotations is None:
        names = shared_names(manifests.values())
        notes.append(_names_note(names))
        values = _label_values(list(pairs.values()), list(pairs), workers)
        own = {names.get(value, str(value)): value for value in sorted({*values, *names})}
        annotations = dict.fromkeys(pairs, Annotation(values=own, annotated=tuple(own)))
    answers = {case: answers_of(manifests[case], own, annotations[case].annotated) for case in pairs}
    notes += dict.fromkeys(note for one in answers.values() for note in one.notes)
    if left_out := {name for case in pairs for name in {*annotations[case].annotated} - {*answers[case].labels}}:
        notes.append(f"Not queried in all predictions, and not scored there: {', '.join(sorted(left_out))}.")
    if own and not any(one.labels for one in answers.values()):
        raise UserError(f"No prediction contains a label of the references ({', '.join(own)}). Give their predictions.")
    tasks = [(case, *paths, annotations[case], answers[case]) for case, paths in pairs.items()]
    score = partial(_score_files, tolerance_mm=tolerance_mm)
    cases = tuple(run_cases(score, tasks, list(pairs), workers))
    return summarise(cases, tolerance_mm, notes)


def _names_note(names: Mapping[int, str]) -> str:
    """A note on the origin of the labels' names, if there is no `dataset.json`."""
    if names:
        return (
            "There is no dataset.json beside or above the references. The labels' names are from the predictions' JSON "
            "files, so the references must have the same values."
        )
    return "There is no dataset.json beside or above the references. So labels are named by their values."


def match_files(
    predictions: Path, references: Path, partial_predictions: bool = False
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Case -> (prediction, reference), and notes about files that are left out."""
    if predictions.is_file() and references.is_file():
        return {split_ending(references.name)[0]: (predictions, references)}, []
    predicted, expected = _label_files(predictions), _label_files(references)
    missing = [case for case in expected if case not in predicted]
    if missing and not partial_predictions:
        faults = merged((case, f"{predictions} has no prediction for {expected[case]}.") for case in missing)
        raise UserError(*faults, "Predict these cases, or leave them out with --partial.")
    pairs = {case: (predicted[case], expected[case]) for case in expected if case in predicted}
    if not pairs:
        raise UserError(
            f"No file in {predictions} ({_examples(predicted)}) has the name of a file in {references} "
            f"({_examples(expected)}). Rename the files."
        )
    notes = [f"{len(missing)} references without a prediction were left out."] if missing else []
    notes += unread(references, (name for name in names_in(references) if (references / name).is_file()))
    if extra := len(set(predicted) - set(expected)):
        notes.append(f"{extra} predictions without a reference were left out.")
    return pairs, notes


def read_annotations(
    references: Path, cases: Sequence[str], predictions: Path | None = None
) -> tuple[dict[str, Annotation], dict[str, int]] | None:
    """The annotation of each case, and name -> value of each label, from `dataset.json`; None without such a file.

    The file is in the references' folder, in the folder above it, or in the predictions' folder (as nnU-Net writes it).
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
    """The segmentations in a folder: case -> file."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give two folders of segmentations, or two files.")
    faults: list[str] = []
    files = {case: folder / name for case, name in by_stem(folder, names_in(folder), faults).items()}
    files = {case: path for case, path in files.items() if path.is_file()}
    faults += [
        f"{folder}: the folder {case} and the file {path.name} would be one case. Move one of them away."
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
        raise UserError(f"{folder} contains no segmentation. Expected files that end with {', '.join(FILE_ENDINGS)}.")
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
            f"{predicted_path} has another grid ({describe(predicted.geometry)}) than {expected_path} "
            f"({describe(expected.geometry)}). Predict the same scan that the reference was drawn on."
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
                f"{path} has the label values {listed(unknown)}, but dataset.json has {listed(sorted(allowed))}. Give "
                "files of one data set, or correct dataset.json."
            )
    if faults:
        raise UserError(*faults)
    if ignore is not None:
        reference = np.where(reference == ignore, -1, reference.astype(np.int64))
    labels = {annotation.values[name]: name for name in answers.labels}
    return score_case(prediction, reference, expected.geometry.spacing, labels, tolerance_mm, case=case)
