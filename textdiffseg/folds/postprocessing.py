"""The postprocessing of masks, chosen by evidence (`postprocessing.json`).

Validation tries each step on each label: keep the largest component, drop small components, fill holes. The file holds
the Dice of every validation case after each step. With d_c the gain of Dice in case c, an ensemble uses a step if

    mean(d) > 2 standard errors of mean(d)   over the cases of all its folds together, and
    mean(d) >= 0                             in each fold.

So a single case decides nothing. Of several such steps on components, that with the largest mean is used. nnU-Net keeps
the largest component if the mean Dice rises at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from plans.layout import Checkpoint, FoldFolder
from plans.records import Record
from textdiffseg.folds.sampling import VALIDATE_AGAIN, BoundToWeights

MIN_CASES = 4  # with a score of the label, in all folds together
MIN_STANDARD_ERRORS = 2.0


class Postprocessing(Record):
    """The postprocessing of one label's mask. Components come first, then holes."""

    components: Literal["all", "largest"] = "all"
    least_ml: float = Field(0.0, ge=0)  # smaller components are dropped
    fill_holes: bool = False  # with the label, where the mask has background

    @property
    def changes_components(self) -> bool:
        """Whether it may drop components."""
        return self.components == "largest" or self.least_ml > 0

    def kept(self, millilitres: np.ndarray) -> np.ndarray:
        """Which components (N,) are kept, bool, by their volumes (N,) in ml."""
        kept = millilitres >= self.least_ml
        if self.components == "largest" and len(millilitres):
            kept &= np.arange(len(millilitres)) == millilitres.argmax()
        return kept

    def __str__(self) -> str:
        """The steps in words."""
        steps = []
        if self.components == "largest":
            steps.append("keep the largest component")
        if self.least_ml:
            steps.append(f"drop components below {self.least_ml:g} ml")
        if self.fill_holes:
            steps.append("fill holes")
        return ", ".join(steps) or "none"


class PostprocessingTrial(Record):
    """One step on one label, and the Dice after it in each validation case that knows the label.

    A label that is absent from mask and reference has Dice 1 here, so that dropping a false structure counts.
    """

    step: Postprocessing
    dice: tuple[float, ...]


class PostprocessingTrials(BoundToWeights):
    """`postprocessing.json`: the trials of each label, by its name. The first trial changes nothing."""

    version: Literal[1] = 1
    labels: dict[str, tuple[PostprocessingTrial, ...]]

    @field_validator("labels")
    @classmethod
    def _comparable(
        cls, labels: dict[str, tuple[PostprocessingTrial, ...]]
    ) -> dict[str, tuple[PostprocessingTrial, ...]]:
        for name, trials in labels.items():
            if not trials or trials[0].step != Postprocessing() or len({len(trial.dice) for trial in trials}) > 1:
                raise ValueError(f"{name} needs trials of the same cases, and one without a step first")
        return labels


def read_postprocessing(fold: FoldFolder, checkpoint: Checkpoint) -> PostprocessingTrials | None:
    """The trials with a fold's checkpoint; None if validation has made none with these weights."""
    if not fold.postprocessing.is_file():
        return None
    trials = PostprocessingTrials.read(fold.postprocessing, VALIDATE_AGAIN)
    return trials if trials.belongs_to(fold, checkpoint) else None


def choose_postprocessing(folds: Iterable[PostprocessingTrials | None]) -> dict[str, Postprocessing]:
    """The postprocessing of each label that gains by one, by name, from the trials of an ensemble's folds."""
    tried = [fold.labels for fold in folds if fold is not None]
    chosen = {}
    for name in dict.fromkeys(name for labels in tried for name in labels):
        steps = _chosen([labels[name] for labels in tried if name in labels])
        if steps != Postprocessing():
            chosen[name] = steps
    return chosen


def shared_postprocessing(models: Iterable[Iterable[PostprocessingTrials | None]]) -> dict[str, Postprocessing]:
    """The postprocessing that each of several averaged models chooses from the trials of its folds, by label.

    The models have the same cases, so that their trials do not add up.
    """
    chosen = [choose_postprocessing(folds) for folds in models]
    return {label: step for label, step in chosen[0].items() if all(steps.get(label) == step for steps in chosen)}


def postprocessing_of(
    models: Iterable[Iterable[FoldFolder]], checkpoint: Checkpoint = "best"
) -> dict[str, Postprocessing]:
    """The postprocessing of a model, or of several averaged ones, from the folds of each."""
    return shared_postprocessing([read_postprocessing(fold, checkpoint) for fold in folds] for folds in models)


def listing_of(steps: Mapping[str, Postprocessing]) -> str:
    """The steps of all labels: `liver: keep the largest component; spleen: fill holes`."""
    return "; ".join(f"{label}: {step}" for label, step in steps.items())


def _chosen(folds: Sequence[tuple[PostprocessingTrial, ...]]) -> Postprocessing:
    """The postprocessing of one label."""
    by_step = [{trial.step: np.array(trial.dice) for trial in fold} for fold in folds]
    none = Postprocessing()
    gains = {
        step: [fold[step] - fold[none] for fold in by_step]
        for step in by_step[0]
        if all(step in fold and none in fold for fold in by_step)
    }
    means = {step: float(np.concatenate(of_folds).mean()) for step, of_folds in gains.items() if _holds(of_folds)}
    on_components = [step for step in means if step.changes_components]
    best = max(on_components, key=lambda step: means[step], default=none)
    return best.model_copy(update={"fill_holes": any(step.fill_holes for step in means)})


def _holds(folds: Sequence[np.ndarray]) -> bool:
    """Whether the gains (cases,) of folds fulfil the rule."""
    gains = np.concatenate(folds)
    if len(gains) < MIN_CASES or gains.mean() <= 0 or any(len(fold) and fold.mean() < 0 for fold in folds):
        return False
    return gains.mean() > MIN_STANDARD_ERRORS * gains.std(ddof=1) / np.sqrt(len(gains))
