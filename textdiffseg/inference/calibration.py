"""What validation cases teach about a fold's probabilities and volume intervals (`calibration.json`).

A temperature T makes probabilities as sure as they were right,

    p_k^(1/T) / sum_j p_j^(1/T),        T = argmin of the negative log-likelihood near the foreground

(Guo et al. 2017), applied once, to the mean over windows, views, samples and folds. It keeps the order of the classes
at every voxel, and masks are made before it, so no mask changes. Labels that overlap are two classes each, with and
without the label (`evaluation.calibration.label_by_label`), at one temperature for all.

A factor f >= 1 widens a 90% volume interval to [low / f, high * f]: the smallest with which nine of ten true volumes
lie inside (split conformal prediction on the logarithms of volumes, Romano et al. 2019), 1 where they already do.
A factor, since errors grow with the structure, and since an interval of no width has to be widened too.

Both are fitted on cases that the fold was not trained on, and belong to the setting they were fitted with: the mean
of eight samples is less sure than one posterior mean. What is told of "after" is cross-fitted: each half of the cases
with what the other half taught.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from plans.records import Record
from textdiffseg.evaluation.calibration import LEAST_PROBABILITY, SampledVoxels, negative_log_likelihood
from textdiffseg.inference.settings import Setting, Settings
from textdiffseg.inference.uncertainty import INTERVAL

CALIBRATION = "calibration.json"
RANGE = (0.25, 8.0)  # of temperatures


class Widening(Record):
    """The factor of volume intervals, and the share of true volumes that they held, by label; 0.9 is aimed at."""

    factor: float = Field(ge=1)
    coverage_before: dict[str, float]
    coverage_after: dict[str, float]  # cross-fitted


class Fit(Setting):
    """What was fitted for one setting."""

    cases: int = Field(ge=1)
    temperature: float = Field(gt=0)
    ece_before: float
    ece_after: float  # cross-fitted, as all that is "after"
    brier_before: float
    brier_after: float
    widening: Widening | None = None  # None where no structure was found

    def is_of(self, settings: Settings) -> bool:
        """Whether this belongs to predictions with `settings`."""
        return self.key == (settings.steps, settings.samples, bool(settings.mirror_axes))


class Calibration(Record):
    """`calibration.json`: at most one fit a setting."""

    version: Literal[1] = 1
    fits: tuple[Fit, ...] = ()

    def with_fit(self, fit: Fit) -> "Calibration":
        """`fit` in the place of an earlier one of its setting."""
        return Calibration(fits=(*(one for one in self.fits if one.key != fit.key), fit))


class Applied(Record):
    """What a prediction is calibrated with; None: nothing was fitted for its setting."""

    temperature: float | None = None
    widening: float | None = None


def temper(p: np.ndarray, temperature: float, out: np.ndarray | None = None) -> np.ndarray:
    """Probabilities (K, ...) at a temperature; `out` may be `p` itself, where memory is short."""
    out = np.divide(p, p.max(0), out=out)  # the winner becomes 1, so that nothing vanishes altogether
    np.power(out, 1 / temperature, out=out)
    out /= out.sum(0)
    return out


def temper_overlapping(p: np.ndarray, temperature: float) -> None:
    """The same, in place, for labels that overlap, p (1 + Q, ...): each label against its absence."""
    for one in p[1:]:
        pair = np.stack((1 - one, one))
        one[...] = temper(pair, temperature, out=pair)[1]
    np.subtract(1, p[1:].max(0), out=p[0])


def fit_temperature(cases: Sequence[SampledVoxels]) -> float:
    """The temperature in `RANGE` of the least negative log-likelihood over all voxels of the cases."""
    from scipy.optimize import minimize_scalar

    p = np.concatenate([_above_zero(case.p) for case in cases], axis=1)
    truth = np.concatenate([case.truth for case in cases])

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(temper(p, np.exp(log_temperature)), truth)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-3}).x))


def _above_zero(p: np.ndarray) -> np.ndarray:
    """Probabilities (K, N) of at least `LEAST_PROBABILITY`, but for classes that the case was not asked for."""
    return np.maximum(p, np.float32(LEAST_PROBABILITY) * p.any(1, keepdims=True))


def fit_widening(intervals: np.ndarray, truths: np.ndarray) -> float | None:
    """The factor for intervals (..., 2) of structures with true volumes (...).

    Structures that are absent, or that no sample holds, are left out: no factor helps them. None where none is left.
    """
    low, high = np.moveaxis(intervals.reshape(-1, 2), 1, 0)
    truths = truths.reshape(-1)
    found = (truths > 0) & (high > 0)
    with np.errstate(divide="ignore"):
        needed = np.sort(np.maximum(np.log(low) - np.log(truths), np.log(truths) - np.log(high))[found])
    if not len(needed):
        return None
    share = INTERVAL[1] - INTERVAL[0]
    place = min(len(needed), ceil(round((len(needed) + 1) * share, 9)))  # rounded: 0.9 * 10 is not 9 in binary
    return float(np.exp(max(0.0, needed[place - 1])))


def widen(intervals: np.ndarray, factor: float) -> np.ndarray:
    """Intervals (..., 2) widened to [low / f, high * f]."""
    return np.asarray(intervals) * (1 / factor, factor)


def tempered_in_halves(cases: Sequence[SampledVoxels]) -> list[SampledVoxels]:
    """Each case at the temperature of the half (every second case) that it is not in."""
    temperatures = [fit_temperature(cases[half::2]) for half in (0, 1)]
    return [SampledVoxels(temper(case.p, temperatures[1 - i % 2]), case.truth) for i, case in enumerate(cases)]


def widened_in_halves(intervals: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Intervals (cases, ..., 2), each widened by the factor of the half that it is not in."""
    factors = [fit_widening(intervals[half::2], truths[half::2]) or 1.0 for half in (0, 1)]
    return np.stack([widen(of_case, factors[1 - i % 2]) for i, of_case in enumerate(intervals)])


def read_calibration(fold: Path) -> Calibration:
    """What was fitted for a fold; nothing where validation has not."""
    path = fold / CALIBRATION
    return Calibration.read(path) if path.is_file() else Calibration()


def applied(folds: Sequence[Calibration], settings: Settings) -> Applied:
    """What an ensemble's predictions with `settings` are calibrated with.

    Geometric means over the folds that were fitted with this very setting, weighted by their cases.
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
