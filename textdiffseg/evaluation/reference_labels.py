"""The labels of references: those of a `dataset.json`, else the values in the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plans.errors import UserError, listed
from plans.layout import RawFolder
from plans.raw.annotation import Annotation, annotations_of
from plans.raw.header import DatasetHeader, labels_of
from textdiffseg.evaluation.matching import Pair
from textdiffseg.masks import LabelKey

if TYPE_CHECKING:
    from textdiffseg.imaging.volume import Volume


@dataclass(frozen=True)
class ReferenceLabels:
    """The labels of the references."""

    values: dict[str, int]  # in the files, by name
    annotations: dict[str, Annotation]  # by case


def read_annotations(references: Path, cases: Sequence[str], predictions: Path | None = None) -> ReferenceLabels | None:
    """The labels of the references, from `dataset.json`; None without such a file.

    The file is in the references' folder, in the folder above it, or in the predictions' folder (as nnU-Net writes it).
    """
    folder = (references.parent if references.is_file() else references).resolve()
    folders = [folder, folder.parent, *([] if predictions is None else [predictions])]
    headers = (RawFolder(candidate).header for candidate in folders)
    path = next((header for header in headers if header.is_file()), None)
    if path is None:
        return None
    header = DatasetHeader.read(path)
    faults: list[str] = []
    table = labels_of(header, str(path), faults)
    elsewhere = {case for field in (header.annotated, header.absent) if isinstance(field, dict) for case in field}
    annotations = annotations_of(header, table, cases, elsewhere - set(cases), str(path), faults)
    if faults:
        raise UserError(*faults)
    return ReferenceLabels({label.name: label.value for label in table.labels}, annotations)


def names_note(names: Mapping[int, str]) -> str:
    """A note on the origin of the labels' names, if there is no `dataset.json`."""
    if names:
        return (
            "There is no dataset.json beside or above the references. The labels' names are from the predictions' JSON "
            "files, so the references must have the same values. A label that a reference lacks counts as absent: "
            "`annotated` in a dataset.json says what was not drawn."
        )
    return "There is no dataset.json beside or above the references. So labels are named by their values."


@dataclass(frozen=True)
class LabelValues:
    """The values above 0 in label maps."""

    predicted: frozenset[int]
    expected: frozenset[int]  # in the references

    def notes(self) -> list[str]:
        """A note if predictions and references have no value in common."""
        if not (self.predicted and self.expected) or self.predicted & self.expected:
            return []
        ours, theirs = (listed(sorted(values)) for values in (self.predicted, self.expected))
        return [
            f"No label value is in both: the predictions have {ours}, the references have {theirs}. So every Dice is "
            "0. Write the same values into both, or give the dataset.json of the references."
        ]


def labels_by_value(
    pairs: Mapping[str, Pair], found: LabelValues, names: Mapping[int, str], parts: Mapping[str, tuple[int, ...]]
) -> ReferenceLabels:
    """The labels of references without a `dataset.json`: all values in the files, with the names if known.

    `parts`: the values of each label, if labels overlap.
    """
    value_of = {names.get(value, str(value)): value for value in sorted({*found.predicted, *found.expected, *names})}
    all_values_of: dict[str, LabelKey] = {**value_of}
    if parts:
        all_values_of = {name: parts.get(name, (value,)) for name, value in value_of.items()}
    annotation = Annotation(values=all_values_of, annotated=tuple(value_of))
    return ReferenceLabels(value_of, dict.fromkeys(pairs, annotation))


def label_values(pairs: Mapping[str, Pair], workers: int) -> LabelValues:
    """The values in the files of all cases."""
    from textdiffseg.execution import run_cases

    found = list(run_cases(_values_of, list(pairs.values()), list(pairs), workers))
    return LabelValues(
        predicted=frozenset[int]().union(*(values.predicted for values in found)),
        expected=frozenset[int]().union(*(values.expected for values in found)),
    )


def _values_of(pair: Pair) -> LabelValues:
    """The values in the files of a case."""
    expected = (_values_in_file(path) for path in pair.references)
    return LabelValues(
        predicted=frozenset(_values_in_file(pair.prediction) - {0}),
        expected=frozenset(set[int]().union(*expected) - {0}),
    )


def _values_in_file(path: Path) -> set[int]:
    """The values in a label map. Raises `UserError` for one below 0, as 255 in signed bytes: it would be ignored."""
    values = values_in(read_map(path).array[0])
    if (lowest := min(values)) < 0:
        raise UserError(f"{path} has the value {lowest}. Expected 0 for background, and values above 0 for labels.")
    return values


def values_in(array: np.ndarray) -> set[int]:
    """The values of an array (D, H, W). Slices are read one by one, which saves the memory of sorting all voxels."""
    return {value for plane in array for value in np.unique(plane).tolist()}


def read_map(path: Path) -> "Volume":
    """A label map."""
    from textdiffseg.imaging.sources.files import read_labels

    return read_labels(path)
