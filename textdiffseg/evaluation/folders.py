"""Score a folder of predictions against a folder of references, file by file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plans.errors import UserError, listed
from plans.geometry import Millimetres
from plans.layout import RawFolder
from plans.names import normalise
from plans.raw.annotation import Annotation
from plans.raw.header import DatasetHeader, labels_of
from plans.regions import values_of
from textdiffseg.evaluation.answers import PredictedLabels, ScoredLabels, scored_labels, shared_names, shared_parts
from textdiffseg.evaluation.matching import Pair, match_files, shares_of
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.raters import energy_distances, mean_over_raters, with_distances
from textdiffseg.evaluation.reference_labels import (
    ReferenceLabels,
    label_values,
    labels_by_value,
    names_note,
    read_annotations,
    read_map,
    values_in,
)
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.progress import Cancel, OnProgress, followed, never, silent

if TYPE_CHECKING:
    from textdiffseg.imaging.volume import Geometry, Volume


def evaluate_folders(
    predictions: Path,
    references: Path,
    tolerance_mm: float = 1.0,
    *,
    partial_predictions: bool = False,
    lesions: Collection[str] | None = None,
    workers: int = 0,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> Summary:
    """The scores of every reference and the prediction of the same name.

    Args:
        predictions: a folder of segmentations, or one file.
        references: a folder, or one file. Two files are one case, whatever their names.
        tolerance_mm: of NSD.
        partial_predictions: leave out references without a prediction. Otherwise they are an error.
        lesions: names of the labels whose lesions are scored; empty: all labels; None: no label.
        workers: processes; 0 means no extra process.

    Raises:
        UserError: nothing to score, or faults of files, grids and labels. All files are checked before it is raised.
    """
    from textdiffseg.execution import run_cases

    predictions, references = Path(predictions), Path(references)
    pairs, notes = match_files(predictions, references, partial_predictions)
    manifests, manifest_notes = _manifests(pairs)
    notes += manifest_notes
    labels = read_annotations(references, tuple(pairs), predictions)
    if labels is None:
        names = shared_names(manifests.values())
        notes.append(names_note(names))
        found = label_values(pairs, workers)
        notes += found.notes()
        labels = labels_by_value(pairs, found, names, shared_parts(manifests.values()))
    notes += _labels_beside(predictions, labels.values)
    scored = {case: scored_labels(manifests[case], labels.values, labels.annotations[case].annotated) for case in pairs}
    notes += _notes_on_scored(scored, labels)
    shares = {case: shares_of(pair, manifests[case]) for case, pair in pairs.items() if len(pair.references) > 1}
    if any(shares.values()):
        notes.append("ged2 was measured on the alternatives beside the predictions, weighted by their shares.")
    tasks = [
        Task(case, pair, labels.annotations[case], scored[case], shares.get(case, ())) for case, pair in pairs.items()
    ]
    score = partial(_score_files, tolerance_mm=tolerance_mm, lesions=_lesion_labels(lesions, labels.values))
    scores = run_cases(score, tasks, list(pairs), workers)
    cases = followed(scores, "Score the cases", len(tasks), progress, cancel, attrgetter("case"))
    return summarise(tuple(cases), tolerance_mm, notes)


def _notes_on_scored(scored: Mapping[str, ScoredLabels], labels: ReferenceLabels) -> list[str]:
    """Notes on the labels that are scored in each case. `UserError` if no case has any."""
    if labels.values and not any(of_case.labels for of_case in scored.values()):
        names = ", ".join(labels.values)
        raise UserError(f"No prediction contains a label of the references ({names}). Give their predictions.")
    notes = list(dict.fromkeys(note for of_case in scored.values() for note in of_case.notes))
    unqueried = {
        name for case, of_case in scored.items() for name in {*labels.annotations[case].annotated} - {*of_case.labels}
    }
    if unqueried:
        notes.append(f"Not queried in all predictions, and not scored there: {', '.join(sorted(unqueried))}.")
    return notes


def _lesion_labels(chosen: Collection[str] | None, names: Collection[str]) -> frozenset[str]:
    """The names of the labels whose lesions are scored. `UserError` if the references do not have one of them.

    `names`: of all labels of the references.
    """
    if not chosen:
        return frozenset() if chosen is None else frozenset(names)
    spelling = {normalise(name): name for name in names}
    if unknown := [name for name in chosen if normalise(name) not in spelling]:
        raise UserError(
            f"--lesions: the references have no label {', '.join(unknown)}. Expected one or more of "
            f"{', '.join(names)}. Write each one in quotes."
        )
    return frozenset(spelling[normalise(name)] for name in chosen)


def _labels_beside(predictions: Path, reference_values: Mapping[str, int]) -> list[str]:
    """A note if a `dataset.json` beside the predictions has names that the references do not have.

    `reference_values`: of the references' labels, by name. Raises `UserError` if the file gives one of them another
    value.
    """
    path = RawFolder(predictions).header
    if not path.is_file():
        return []
    try:
        table = labels_of(DatasetHeader.read(path), str(path), [])
    except UserError:  # nothing is read from it
        return []
    values = {normalise(name): value for name, value in reference_values.items()}
    for label in table.labels:
        expected = values.get(normalise(label.name), label.value)
        if label.value != expected:
            raise UserError(
                f"{path}: {label.name} has the value {label.value}, but {expected} in the references' dataset.json. "
                "Give the predictions the references' values, or remove this file if it is wrong."
            )
    others = [label.name for label in table.labels if normalise(label.name) not in values]
    if not others:
        return []
    return [f"The references do not have these names of {path}, so only values were compared: {listed(others)}."]


def _manifests(pairs: Mapping[str, Pair]) -> tuple[dict[str, PredictedLabels], list[str]]:
    """The manifest of each prediction, empty if there is none, and a note about JSON files of other programs."""
    manifests = {case: PredictedLabels.read_for(pair.prediction) for case, pair in pairs.items()}
    foreign = listed([f"{case}.json" for case, manifest in manifests.items() if manifest is None])
    note = f"tds_predict did not write these JSON files beside predictions, so they were not read: {foreign}."
    return {case: manifest or PredictedLabels() for case, manifest in manifests.items()}, [note] if foreign else []


@dataclass(frozen=True)
class Task:
    """One case to score."""

    case: str
    pair: Pair
    annotation: Annotation
    scored: ScoredLabels
    shares: tuple[float, ...]  # of the alternatives that are compared with several references


def _score_files(task: Task, tolerance_mm: float, lesions: Collection[str]) -> CaseScores:
    """The scores of one case. With several references, they are means over the references."""
    maps = _read_case(task)
    labels = {task.annotation.values[name]: name for name in task.scored.labels}
    score = partial(score_case, maps.prediction, spacing=maps.spacing, labels=labels, tolerance_mm=tolerance_mm)
    scores = mean_over_raters([score(reference, case=task.case, lesions=lesions) for reference in maps.references])
    if not maps.alternatives:
        return scores
    return with_distances(scores, energy_distances(maps.alternatives, maps.references, labels, task.shares))


@dataclass(frozen=True)
class CaseMaps:
    """The label maps (D, H, W) of one case, on one grid and with the values of the references."""

    prediction: np.ndarray
    references: list[np.ndarray]  # -1 ignored
    alternatives: list[np.ndarray]  # only with several references, which they are compared with
    spacing: Millimetres


def _read_case(task: Task) -> CaseMaps:
    """The label maps of a case. `UserError` with a line for each fault: another grid, unknown values."""
    pair, annotation = task.pair, task.annotation
    predicted, expected = read_map(pair.prediction), [read_map(path) for path in pair.references]
    grid = Grid(pair.references[0], expected[0].geometry)
    prediction = task.scored.translated(grid.array_of(pair.prediction, predicted))
    references = [grid.array_of(path, volume) for path, volume in zip(pair.references, expected, strict=True)]
    paths = pair.alternatives if len(references) > 1 else ()
    alternatives = [task.scored.translated(grid.array_of(path, read_map(path))) for path in paths]
    ignored = () if annotation.ignore is None else (annotation.ignore,)
    faults: list[str] = []
    for path, array in zip((pair.prediction, *paths), (prediction, *alternatives), strict=True):
        faults += _unknown_values(path, array, annotation, ())
    for path, array in zip(pair.references, references, strict=True):
        faults += _unknown_values(path, array, annotation, ignored)
    if faults:
        raise UserError(*faults)
    if ignored:
        references = [np.where(labels == annotation.ignore, -1, labels.astype(np.int32)) for labels in references]
    return CaseMaps(prediction, references, alternatives, grid.geometry.spacing)


@dataclass(frozen=True)
class Grid:
    """The grid of a case's first reference. All other files of the case must have it."""

    path: Path
    geometry: "Geometry"

    def array_of(self, path: Path, volume: "Volume") -> np.ndarray:
        """The values (D, H, W) of a label map. `UserError` if it has another grid."""
        from textdiffseg.imaging.volume import describe

        if not volume.geometry.matches(self.geometry):
            raise UserError(
                f"{path} has another grid ({describe(volume.geometry)}) than {self.path} "
                f"({describe(self.geometry)}). Predict the scan that the reference was drawn on, or "
                "resample one of the two to the grid of the other."
            )
        return volume.array[0]


def _unknown_values(path: Path, array: np.ndarray, annotation: Annotation, ignored: tuple[int, ...]) -> list[str]:
    """A line if an array holds values that are neither of a label nor background nor `ignored`."""
    values = annotation.values.values() if annotation.regions is None else values_of(annotation.regions)
    allowed = {0, *values, *ignored}
    if unknown := sorted(values_in(array) - allowed):
        if unknown == [annotation.ignore]:
            return [f"{path} has the value {annotation.ignore} (ignore), which only references may have. Correct it."]
        return [
            f"{path} has the label values {listed(unknown)}, but dataset.json has {listed(sorted(allowed))}. Give "
            "files of one data set, or correct dataset.json."
        ]
    return []
