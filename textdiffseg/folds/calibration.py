"""The calibration of a fold's probabilities and volume intervals (`calibration.json`).

A temperature T makes probabilities agree with the share of correct voxels (`textdiffseg.temperature`). It is applied
once, to the mean over windows, views, samples and folds (`Readout.temper`). It keeps the order of the classes at every
voxel, and masks are made before it. So no mask changes. All labels have the same temperature.

A factor f widens a 90% volume interval to [low / f, high * f], or narrows it if f < 1. The interval comes from the
level sets of the probabilities with this temperature (`inference.volumes`). Errors grow with the size of a structure,
so the widening is a factor. A factor also widens an interval of width 0.

The expected Dice is a curve over soft Dice (`folds.expected_dice`).

All are fitted on cases that the fold was not trained on (`validation.fitting`). They belong to the setting that they
were fitted with: the mean of eight samples is less certain than one posterior mean.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from plans.layout import Checkpoint, FoldFolder
from plans.records import Fields, Record, Upgrades
from textdiffseg.folds.expected_dice import DiceCurve, DiceFit, pooled_curve
from textdiffseg.folds.sampling import VALIDATE_AGAIN, BoundToWeights, PredictionSettings, SamplingChoice

INTERVAL = (0.05, 0.95)  # quantiles of a 90% volume interval


class Widening(Record):
    """The factor of volume intervals, and by label the share of true volumes inside them (target: 0.9)."""

    factor: float = Field(gt=0)
    coverage_before: dict[str, float]  # of level sets without temperature and factor
    coverage_after: dict[str, float]  # cross-fitted


class CalibrationFit(SamplingChoice):
    """The calibration for one sampling setting."""

    cases: int = Field(ge=1)
    temperature: float = Field(gt=0)
    ece_before: float
    ece_after: float  # cross-fitted, like all fields "after"
    brier_before: float
    brier_after: float
    widening: Widening | None = None  # None if no structure was found
    expected_dice: DiceFit | None = None  # None for the setting of --uncertainty

    def is_of(self, settings: PredictionSettings) -> bool:
        """Whether this calibration belongs to predictions with `settings`. Validation uses the default overlap."""
        same = self.key == (settings.steps, settings.samples, bool(settings.mirror_axes))
        return same and settings.overlap == PredictionSettings().overlap


def _without_widening(fields: Fields) -> Fields:
    """The fields of version 2. Its factors belong to intervals of diffusion samples and are dropped."""
    return fields | {"fits": [fit | {"widening": None} for fit in fields.get("fits", ())]}


class Calibration(BoundToWeights):
    """`calibration.json`: at most one fit per setting."""

    version: Literal[3] = 3
    upgrades: ClassVar[Upgrades] = {1: dict, 2: _without_widening}
    fits: tuple[CalibrationFit, ...] = ()

    def with_fit(self, fit: CalibrationFit) -> "Calibration":
        """This calibration with `fit` in place of an earlier fit of its setting."""
        others = (other for other in self.fits if other.key != fit.key)
        return self.model_copy(update={"fits": (*others, fit)})


class AppliedCalibration(Record):
    """The calibration of a prediction. None: nothing was fitted for its setting."""

    temperature: float | None = None
    widening: float | None = None
    expected_dice: DiceCurve | None = None


def widen(intervals: np.ndarray, factor: float) -> np.ndarray:
    """The intervals (..., 2), scaled to [low / f, high * f]. One that would end before it begins becomes its middle."""
    low, high = np.moveaxis(np.asarray(intervals, dtype=float), -1, 0)
    middle = np.sqrt(low * high)
    return np.stack((np.minimum(low / factor, middle), np.maximum(high * factor, middle)), axis=-1)


def read_calibration(fold: FoldFolder, checkpoint: Checkpoint = "best") -> Calibration:
    """The calibration of a fold's checkpoint. It has no fits if validation has none for these weights."""
    calibration = Calibration.read(fold.calibration, VALIDATE_AGAIN) if fold.calibration.is_file() else Calibration()
    return calibration if calibration.belongs_to(fold, checkpoint) else Calibration(checkpoint=checkpoint)


def applied_calibration(folds: Sequence[Calibration], settings: PredictionSettings) -> AppliedCalibration:
    """The calibration of an ensemble's predictions with `settings`.

    Means over the folds that were fitted with the same setting, weighted by their cases: geometric means of
    temperatures and factors, and the arithmetic mean of the curves of expected Dice.
    """
    fits = [fit for fold in folds for fit in fold.fits if fit.is_of(settings)]
    return AppliedCalibration(
        temperature=_geometric_mean([(fit.temperature, fit.cases) for fit in fits]),
        widening=_geometric_mean([(fit.widening.factor, fit.cases) for fit in fits if fit.widening]),
        expected_dice=pooled_curve([(fit.expected_dice, fit.cases) for fit in fits if fit.expected_dice]),
    )


def _geometric_mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    if not weighted:
        return None
    values, weights = zip(*weighted, strict=True)
    return float(np.exp(np.average(np.log(values), weights=weights)))
