"""Which labels of the references a prediction answers, by the manifest that tds_predict writes beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from plans.layout import split_ending
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
    def beside(cls, segmentation: Path) -> "PredictedLabels":
        """That of a segmentation; an empty one where there is none."""
        path = segmentation.with_name(f"{split_ending(segmentation.name)[0]}.json")
        return cls.read(path) if path.is_file() else cls()


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
