"""Which labels of the references a prediction answers, by the manifest that tds_predict writes beside it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from plans.errors import UserError
from plans.file_names import split_ending
from plans.names import normalise
from plans.records import Record


@dataclass(frozen=True)
class ScoredLabels:
    """What a prediction was asked for, in the references' labels."""

    labels: tuple[str, ...]  # to score
    values: Mapping[int, int] | None = None  # of the prediction to those of the references; None: they are the same
    notes: tuple[str, ...] = ()

    def translated(self, prediction: np.ndarray) -> np.ndarray:
        """A prediction (D, H, W) in the references' values; answers that are none of their labels are background."""
        if self.values is None:
            return prediction
        result = prediction.astype(np.int32)
        for value, theirs in self.values.items():
            result[prediction == value] = theirs
        return result


class PredictedLabels(Record):
    """The part of a prediction's manifest that scoring reads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, int] = Field(default_factory=dict)  # name -> value in the segmentation
    means: dict[str, str] = Field(default_factory=dict)  # the model's label behind a name, where it is another
    notes: tuple[str, ...] = ()  # what has to be known of the model

    @classmethod
    def beside(cls, segmentation: Path) -> "PredictedLabels | None":
        """That of a segmentation; an empty one without a file; None where the JSON file is not of this project."""
        path = segmentation.with_name(f"{split_ending(segmentation.name)[0]}.json")
        if not path.is_file():
            return cls()
        try:
            return cls.read(path)
        except UserError:
            return None

    @property
    def named(self) -> dict[str, int]:
        """The labels by the names of `dataset.json`, as far as they are known."""
        return {self.means.get(name, name): value for name, value in self.labels.items()}


def shared_names(manifests: Iterable[PredictedLabels]) -> dict[int, str]:
    """The name of each value on which all manifests that have it agree. No name has two values."""
    names: dict[int, set[str]] = {}
    for manifest in manifests:
        for name, value in manifest.named.items():
            names.setdefault(value, set()).add(name)
    agreed = {value: min(found) for value, found in names.items() if len(found) == 1}
    counts = Counter(normalise(name) for found in names.values() for name in found)
    return {value: name for value, name in agreed.items() if counts[normalise(name)] == 1}


def answers_of(manifest: PredictedLabels, own: Mapping[str, int], annotated: Sequence[str]) -> ScoredLabels:
    """Match a prediction with the references by the names of labels; all `annotated` ones without a manifest.

    own: of every label of the references the value that a prediction of it writes. A model of several data sets, or a
    user's file of prompts, may have given a label another one. A name that the references do not know may be an older
    one, or words that ran by force: it is taken for the label that has its value, which is noted, if no name is.
    """
    if not manifest.labels:
        return ScoredLabels(tuple(annotated), notes=manifest.notes)
    spelled = {normalise(name): name for name in own}
    found = {value: spelled.get(normalise(manifest.means.get(name, name))) for name, value in manifest.labels.items()}
    free = {value: name for name, value in own.items() if name not in found.values()}
    notes = list(manifest.notes)
    for name, value in manifest.labels.items():
        if found[value] is None and value in free:
            found[value] = free[value]
            if free[value] != str(value):  # the name of a label that no dataset.json names
                notes.append(f"{name} is no label of the references: scored as {free[value]}, which has its value.")
    return ScoredLabels(
        labels=tuple(name for name in annotated if name in found.values()),
        values={value: 0 if name is None else own[name] for value, name in found.items()},
        notes=tuple(notes),
    )
