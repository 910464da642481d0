"""Calibration on validation cases: a temperature for probabilities, a factor for volume intervals.

The temperature T minimises the negative log-likelihood near the foreground (Guo et al. 2017):

    T = argmin NLL(p_k^(1/T) / sum_j p_j^(1/T))

The factor f is the smallest for which nine of ten true volumes lie in [low / f, high * f]. This is split conformal
prediction on the logarithms of volumes (Romano et al. 2019).

Scores after calibration are cross-fitted: each half of the cases is scored with the fit of the other half.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from textdiffseg.evaluation.calibration import MIN_PROBABILITY, negative_log_likelihood
from textdiffseg.folds.calibration import INTERVAL
from textdiffseg.temperature import SampledVoxels, temper

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 8.0


def fit_temperature(cases: Sequence[SampledVoxels]) -> float:
    """The temperature with the smallest negative log-likelihood over all voxels of the cases, within its limits."""
    from scipy.optimize import minimize_scalar

    p = np.concatenate([_above_zero(case.p) for case in cases], axis=1)
    truth = np.concatenate([case.truth for case in cases])

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(temper(p, np.exp(log_temperature)), truth)

    limits = np.log((MIN_TEMPERATURE, MAX_TEMPERATURE))
    minimum = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(minimum.x))


def _above_zero(p: np.ndarray) -> np.ndarray:
    """Probabilities (K, N) of at least `MIN_PROBABILITY`. Classes that were not queried in the case stay 0."""
    return np.maximum(p, np.float32(MIN_PROBABILITY) * p.any(1, keepdims=True))


def fit_widening(intervals: np.ndarray, truths: np.ndarray) -> float | None:
    """The factor with which intervals (..., 2) cover nine of ten true volumes (...). None without usable structures.

    It is below 1 if the intervals are too wide (conformalised quantile regression, Romano et al. 2019, of logarithms).
    Structures that are absent, or that no voxel belongs to at the upper end, are left out: no factor can cover them.
    """
    low, high = np.moveaxis(intervals.reshape(-1, 2), 1, 0)
    truths = truths.reshape(-1)
    usable = (truths > 0) & (high > 0)
    if not usable.any():
        return None
    low, high, truths = low[usable], high[usable], truths[usable]
    needed = np.sort(np.maximum(low / truths, truths / high))
    share = INTERVAL[1] - INTERVAL[0]
    rank = min(len(needed), ceil(round((len(needed) + 1) * share, 9)))  # rounded: 0.9 * 10 is not 9 in binary
    return float(needed[rank - 1])


def half_temperatures(cases: Sequence[SampledVoxels]) -> list[float]:
    """The temperature of each half. A half is every second case."""
    return [fit_temperature(cases[half::2]) for half in (0, 1)]


def tempered_in_halves(cases: Sequence[SampledVoxels]) -> list[SampledVoxels]:
    """The voxels of each case, with the temperature of the other half."""
    temperatures = half_temperatures(cases)
    return [SampledVoxels(temper(case.p, temperatures[1 - i % 2]), case.truth) for i, case in enumerate(cases)]


def coverage(intervals: np.ndarray, truths: np.ndarray) -> float:
    """The share of true volumes (N,) inside their interval (N, 2). 0.9 is calibrated."""
    low, high = intervals.T
    return float(np.mean((low <= truths) & (truths <= high)))
