"""What is fitted on validation cases: a temperature for probabilities, a factor for volume intervals.

The temperature T makes probabilities as sure as they were right,

    T = argmin of the negative log-likelihood of p_k^(1/T) / sum_j p_j^(1/T) near the foreground

(Guo et al. 2017). The factor f >= 1 is the smallest with which nine of ten true volumes lie in [low / f, high * f]
(split conformal prediction on the logarithms of volumes, Romano et al. 2019). Figures "after" are cross-fitted: each
half of the cases is measured with what the other half taught.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from textdiffseg.evaluation.calibration import MIN_PROBABILITY, negative_log_likelihood
from textdiffseg.folds.calibration import INTERVAL, widen
from textdiffseg.temperature import SampledVoxels, temper

RANGE = (0.25, 8.0)  # of temperatures


def fit_temperature(cases: Sequence[SampledVoxels]) -> float:
    """The temperature in `RANGE` of the least negative log-likelihood over all voxels of the cases."""
    from scipy.optimize import minimize_scalar

    p = np.concatenate([_above_zero(case.p) for case in cases], axis=1)
    truth = np.concatenate([case.truth for case in cases])

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(temper(p, np.exp(log_temperature)), truth)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-3}).x))


def _above_zero(p: np.ndarray) -> np.ndarray:
    """Probabilities (K, N) of at least `MIN_PROBABILITY`, but for classes that the case was not asked for."""
    return np.maximum(p, np.float32(MIN_PROBABILITY) * p.any(1, keepdims=True))


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


def tempered_in_halves(cases: Sequence[SampledVoxels]) -> list[SampledVoxels]:
    """Each case at the temperature of the half (every second case) that it is not in."""
    temperatures = [fit_temperature(cases[half::2]) for half in (0, 1)]
    return [SampledVoxels(temper(case.p, temperatures[1 - i % 2]), case.truth) for i, case in enumerate(cases)]


def widened_in_halves(intervals: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Intervals (cases, ..., 2), each widened by the factor of the half that it is not in."""
    factors = [fit_widening(intervals[half::2], truths[half::2]) or 1.0 for half in (0, 1)]
    return np.stack([widen(of_case, factors[1 - i % 2]) for i, of_case in enumerate(intervals)])
