"""Score a folder of predictions against a folder of references, file by file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plans.errors import UserError, listed
from plans.layout import RawFolder
from plans.names import normalise
from plans.raw.annotation import Annotation, annotations_of
from plans.raw.header import DatasetHeader, labels_of
from plans.regions import values_of
from textdiffseg.evaluation.answers import PredictedLabels, ScoredLabels, scored_labels, shared_names, shared_parts
from textdiffseg.evaluation.matching import Pair, match_files, shares_of
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.raters import energy_distances, mean_over_raters, with_distances
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

    pairs, notes = match_files(Path(predictions), Path(references), partial_predictions)
    manifests, foreign = _manifests(pairs)
    notes += foreign
    known = read_annotations(Path(references), tuple(pairs), Path(predictions))
    if known is None:
        names = shared_names(manifests.values())
        notes.append(_names_note(names))
        known = _annotations_by_value(pairs, names, shared_parts(manifests.values()), workers)
    annotations, own = known
    notes += _labels_beside(Path(predictions), own)
    scored = {case: scored_labels(manifests[case], own, annotations[case].annotated) for case in pairs}
    notes += dict.fromkeys(note for one in scored.values() for note in one.notes)
    if left_out := {name for case in pairs for name in {*annotations[case].annotated} - {*scored[case].labels}}:
        notes.append(f"Not queried in all predictions, and not scored there: {', '.join(sorted(left_out))}.")
    if own and not any(one.labels for one in scored.values()):
        raise UserError(f"No prediction contains a label of the references ({', '.join(own)}). Give their predictions.")
    shares = {case: shares_of(pair, manifests[case]) for case, pair in pairs.items() if len(pair.references) > 1}
    if any(shares.values()):
        notes.append("ged2 was measured on the alternatives beside the predictions, weighted by their shares.")
    tasks = [Task(case, pair, annotations[case], scored[case], shares.get(case, ())) for case, pair in pairs.items()]
    score = partial(_score_files, tolerance_mm=tolerance_mm, lesions=_lesion_labels(lesions, own))
    scores = run_cases(score, tasks, list(pairs), workers)
    cases = followed(scores, "Score the cases", len(tasks), progress, cancel, attrgetter("case"))
    return summarise(tuple(cases), tolerance_mm, notes)


def _lesion_labels(chosen: Collection[str] | None, own: Collection[str]) -> frozenset[str]:
    """The names of the labels whose lesions are scored. `UserError` if the references do not have one of them."""
    if not chosen:
        return frozenset() if chosen is None else frozenset(own)
    spelled = {normalise(name): name for name in own}
    if unknown := [name for name in chosen if normalise(name) not in spelled]:
        raise UserError(
            f"--lesions: the references have no label {', '.join(unknown)}. Expected one or more of {', '.join(own)}. "
            "Write each one in quotes."
        )
    return frozenset(spelled[normalise(name)] for name in chosen)


def _names_note(names: Mapping[int, str]) -> str:
    """A note on the origin of the labels' names, if there is no `dataset.json`."""
    if names:
        return (
            "There is no dataset.json beside or above the references. The labels' names are from the predictions' JSON "
            "files, so the references must have the same values. A label that a reference lacks counts as absent: "
            "`annotated` in a dataset.json says what was not drawn."
        )
    return "There is no dataset.json beside or above the references. So labels are named by their values."


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


def _labels_beside(predictions: Path, own: Mapping[str, int]) -> list[str]:
    """A note if a `dataset.json` beside the predictions has names that the references do not have.

    Raises `UserError` if it gives one of their labels another value.
    """
    path = RawFolder(predictions).header
    if not path.is_file():
        return []
    try:
        table = labels_of(DatasetHeader.read(path), str(path), [])
    except UserError:  # nothing is read from it
        return []
    values = {normalise(name): value for name, value in own.items()}
    for label in table.labels:
        if label.value != (value := values.get(normalise(label.name), label.value)):
            raise UserError(
                f"{path}: {label.name} has the value {label.value}, but {value} in the references' dataset.json. "
                "Give the predictions the references' values, or remove this file if it is wrong."
            )
    others = [label.name for label in table.labels if normalise(label.name) not in values]
    if not others:
        return []
    return [f"The references do not have these names of {path}, so only values were compared: {listed(others)}."]


def _manifests(pairs: Mapping[str, Pair]) -> tuple[dict[str, PredictedLabels], list[str]]:
    """The manifest of each prediction, empty if there is none, and a note about JSON files of other programs."""
    found = {case: PredictedLabels.read_for(pair.prediction) for case, pair in pairs.items()}
    foreign = listed([f"{case}.json" for case, one in found.items() if one is None])
    note = f"tds_predict did not write these JSON files beside predictions, so they were not read: {foreign}."
    return {case: one or PredictedLabels() for case, one in found.items()}, [note] if foreign else []


def _annotations_by_value(
    pairs: Mapping[str, Pair], names: Mapping[int, str], parts: Mapping[str, tuple[int, ...]], workers: int
) -> tuple[dict[str, Annotation], dict[str, int]]:
    """What `read_annotations` returns, without a `dataset.json`: all values in the files, with the names if known.

    `parts`: the values of each label, if labels overlap.
    """
    values = _label_values([pair.files for pair in pairs.values()], list(pairs), workers)
    own = {names.get(value, str(value)): value for value in sorted({*values, *names})}
    meaning: dict[str, int | tuple[int, ...]] = {**own}
    if parts:
        meaning = {name: parts.get(name, (value,)) for name, value in own.items()}
    return dict.fromkeys(pairs, Annotation(values=meaning, annotated=tuple(own))), own


def _label_values(files: list[tuple[Path, ...]], cases: list[str], workers: int) -> list[int]:
    from textdiffseg.execution import run_cases

    found: set[int] = set()
    for values in run_cases(_values_of, files, cases, workers):
        found |= values
    return sorted(found - {0})


def _values_of(paths: tuple[Path, ...]) -> set[int]:
    from textdiffseg.imaging.sources.files import read_labels

    return {value for path in paths for value in _values_in(read_labels(path).array[0])}


def _values_in(array: np.ndarray) -> set[int]:
    """The values of an array (D, H, W). Slices are read one by one, which saves the memory of sorting all voxels."""
    return {value for plane in array for value in np.unique(plane).tolist()}


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
    pair, annotation, faults = task.pair, task.annotation, list[str]()
    predicted, expected = _read(pair.prediction), [_read(path) for path in pair.references]
    grid = Grid(pair.references[0], expected[0].geometry)
    several = len(expected) > 1 and bool(task.shares)
    prediction = task.scored.translated(grid.array_of(pair.prediction, predicted))
    references = [grid.array_of(path, volume) for path, volume in zip(pair.references, expected, strict=True)]
    alternatives = pair.alternatives if several else ()
    samples = [task.scored.translated(grid.array_of(path, _read(path))) for path in alternatives]
    for path, array in zip((pair.prediction, *alternatives), (prediction, *samples), strict=True):
        faults += _unknown_values(path, array, annotation, ())
    ignored = () if annotation.ignore is None else (annotation.ignore,)
    for path, array in zip(pair.references, references, strict=True):
        faults += _unknown_values(path, array, annotation, ignored)
    if faults:
        raise UserError(*faults)
    if ignored:
        references = [np.where(one == annotation.ignore, -1, one.astype(np.int32)) for one in references]
    labels = {annotation.values[name]: name for name in task.scored.labels}
    score = partial(score_case, prediction, spacing=grid.geometry.spacing, labels=labels, tolerance_mm=tolerance_mm)
    scores = mean_over_raters([score(reference, case=task.case, lesions=lesions) for reference in references])
    return with_distances(scores, energy_distances(samples, references, labels, task.shares)) if several else scores


def _read(path: Path) -> "Volume":
    from textdiffseg.imaging.sources.files import read_labels

    return read_labels(path)


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
    if unknown := sorted(_values_in(array) - allowed):
        if unknown == [annotation.ignore]:
            return [f"{path} has the value {annotation.ignore} (ignore), which only references may have. Correct it."]
        return [
            f"{path} has the label values {listed(unknown)}, but dataset.json has {listed(sorted(allowed))}. Give "
            "files of one data set, or correct dataset.json."
        ]
    return []
