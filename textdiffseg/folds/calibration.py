"""The calibration of a fold's probabilities and volume intervals (`calibration.json`).

A temperature T makes probabilities agree with the share of correct voxels (`textdiffseg.temperature`). It is applied
once, to the mean over windows, views, samples and folds (`Readout.temper`). It keeps the order of the classes at every
voxel, and masks are made before it. So no mask changes. All labels have the same temperature.

A factor f >= 1 widens a 90% volume interval to [low / f, high * f]. Errors grow with the size of a structure, so the
widening is a factor. A factor also widens an interval of width 0.

Both are fitted on cases that the fold was not trained on (`validation.fitting`). They belong to the setting that they
were fitted with: the mean of eight samples is less certain than one posterior mean.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from plans.layout import Checkpoint, FoldFolder
from plans.records import Record, Upgrades
from textdiffseg.folds.sampling import Fitted, Setting, Settings

INTERVAL = (0.05, 0.95)  # quantiles of a 90% volume interval


class Widening(Record):
    """The factor of volume intervals, and by label the share of true volumes inside them (target: 0.9)."""

    factor: float = Field(ge=1)
    coverage_before: dict[str, float]
    coverage_after: dict[str, float]  # cross-fitted


class Fit(Setting):
    """The calibration for one sampling setting."""

    cases: int = Field(ge=1)
    temperature: float = Field(gt=0)
    ece_before: float
    ece_after: float  # cross-fitted, like all fields "after"
    brier_before: float
    brier_after: float
    widening: Widening | None = None  # None if no structure was found

    def is_of(self, settings: Settings) -> bool:
        """Whether this calibration belongs to predictions with `settings`."""
        return self.key == (settings.steps, settings.samples, bool(settings.mirror_axes))


class Calibration(Fitted):
    """`calibration.json`: at most one fit per setting."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # the new fields have defaults
    fits: tuple[Fit, ...] = ()

    def with_fit(self, fit: Fit) -> "Calibration":
        """This calibration with `fit` in place of an earlier fit of its setting."""
        return self.model_copy(update={"fits": (*(one for one in self.fits if one.key != fit.key), fit)})


class Applied(Record):
    """The calibration of a prediction. None: nothing was fitted for its setting."""

    temperature: float | None = None
    widening: float | None = None


def widen(intervals: np.ndarray, factor: float) -> np.ndarray:
    """The intervals (..., 2), widened to [low / f, high * f]."""
    return np.asarray(intervals) * (1 / factor, factor)


def read_calibration(fold: FoldFolder, checkpoint: Checkpoint = "best") -> Calibration:
    """The calibration of a fold's checkpoint. It has no fits if validation has none for these weights."""
    calibration = Calibration.read(fold.calibration) if fold.calibration.is_file() else Calibration()
    return calibration if calibration.belongs_to(fold, checkpoint) else Calibration(checkpoint=checkpoint)


def applied(folds: Sequence[Calibration], settings: Settings) -> Applied:
    """The calibration of an ensemble's predictions with `settings`.

    Geometric means over the folds that were fitted with the same setting, weighted by their cases.
    """
    fits = [fit for fold in folds for fit in fold.fits if fit.is_of(settings)]
    return Applied(
        temperature=_geometric_mean([(fit.temperature, fit.cases) for fit in fits]),
        widening=_geometric_mean([(fit.widening.factor, fit.cases) for fit in fits if fit.widening]),
    )


def _geometric_mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    if not weighted:
        return None
    values, weights = zip(*weighted, strict=True)
    return float(np.exp(np.average(np.log(values), weights=weights)))
