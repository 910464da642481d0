"""Match the labels of a prediction with those of its reference, by the manifest that tds_predict wrote."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from plans.errors import UserError
from plans.file_names import manifest_path
from plans.names import normalise
from plans.records import Record, read_json
from textdiffseg.masks import with_values


@dataclass(frozen=True)
class ScoredLabels:
    """The labels of a reference that a prediction is scored on."""

    labels: tuple[str, ...]  # names
    values: Mapping[int, int] | None = None  # value in the prediction -> value in the reference; None: equal
    notes: tuple[str, ...] = ()

    def translated(self, prediction: np.ndarray) -> np.ndarray:
        """The prediction (D, H, W) in the reference's values. Labels that the reference lacks become background."""
        if self.values is None:
            return prediction
        return with_values(prediction, self.values)


class PredictedAlternative(Record):
    """The fields of an alternative that scoring reads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file: str
    share: float


class PredictedLabels(Record):
    """The fields of a prediction's manifest that scoring reads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, int] = Field(default_factory=dict)  # name -> value in the segmentation
    means: dict[str, str] = Field(default_factory=dict)  # name -> the model's label, if it has another name
    parts: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # name -> its values, if labels overlap
    notes: tuple[str, ...] = ()  # about the model
    alternatives: tuple[PredictedAlternative, ...] = ()

    @classmethod
    def read_for(cls, segmentation: Path) -> "PredictedLabels | None":
        """The manifest of a segmentation. It is empty if no JSON file exists, and None if another program wrote it."""
        path = manifest_path(segmentation)
        if not path.is_file():
            return cls()
        try:
            content = read_json(path)
            return cls.parse(content, str(path)) if isinstance(content, dict) and "request" in content else None
        except UserError:
            return None

    @property
    def named(self) -> dict[str, int]:
        """Label name -> value, with the names of `dataset.json` if they are known."""
        return {self.means.get(name, name): value for name, value in self.labels.items()}


def shared_names(manifests: Iterable[PredictedLabels]) -> dict[int, str]:
    """Value -> label name, for the values on which all manifests agree. A name with two values is left out."""
    names: dict[int, set[str]] = {}
    for manifest in manifests:
        for name, value in manifest.named.items():
            names.setdefault(value, set()).add(name)
    agreed = {value: min(candidates) for value, candidates in names.items() if len(candidates) == 1}
    counts = Counter(normalise(name) for candidates in names.values() for name in candidates)
    return {value: name for value, name in agreed.items() if counts[normalise(name)] == 1}


def shared_parts(manifests: Iterable[PredictedLabels]) -> dict[str, tuple[int, ...]]:
    """Label name -> its values, for labels that overlap. Labels whose values differ between manifests are left out."""
    variants: dict[str, set[tuple[int, ...]]] = {}
    for manifest in manifests:
        for name, values in manifest.parts.items():
            variants.setdefault(manifest.means.get(name, name), set()).add(tuple(sorted(values)))
    return {name: values.pop() for name, values in variants.items() if len(values) == 1}


def scored_labels(
    manifest: PredictedLabels, reference_values: Mapping[str, int], annotated: Sequence[str]
) -> ScoredLabels:
    """The labels of one prediction that are scored, matched by their names.

    A prediction without a manifest is scored on all `annotated` labels. A name that the references do not have may be
    an older name, or words that ran with --force. If no other name matches the label with its value, it is scored as
    that label, and a note states this.

    Args:
        manifest: of the prediction.
        reference_values: name -> value of every label of the references. A prediction may have other values, if its
            model learned several data sets or if the user gave a file of prompts.
        annotated: the names of the labels that are annotated in this case.
    """
    if not manifest.labels:
        return ScoredLabels(tuple(annotated), notes=manifest.notes)
    spelling = {normalise(name): name for name in reference_values}
    # Value in the prediction -> name in the references; None: no label of the references has its name.
    matches = {
        value: spelling.get(normalise(manifest.means.get(name, name))) for name, value in manifest.labels.items()
    }
    unmatched = {value: name for name, value in reference_values.items() if name not in matches.values()}
    notes = list(manifest.notes)
    for name, value in manifest.labels.items():
        if matches[value] is None and value in unmatched:
            matches[value] = unmatched[value]
            if unmatched[value] != str(value):  # without a dataset.json the label's name is its value
                notes.append(
                    f"{name} is not a label of the references. It is scored as {unmatched[value]}, which has its value."
                )
    return ScoredLabels(
        labels=tuple(name for name in annotated if name in matches.values()),
        values={value: 0 if name is None else reference_values[name] for value, name in matches.items()},
        notes=tuple(notes),
    )
