"""The paired bootstrap over cases."""

import numpy as np

DRAWS = 10_000


def paired(gaps: np.ndarray) -> dict:
    """The mean of the differences (N,) of N cases, with its 95% bootstrap interval; None if N is 0."""
    if not len(gaps):
        return {"mean": None, "interval_95": None, "cases": 0}
    picks = np.random.default_rng(0).integers(len(gaps), size=(DRAWS, len(gaps)))
    low, high = np.percentile(gaps[picks].mean(1), [2.5, 97.5])
    return {"mean": float(gaps.mean()), "interval_95": [float(low), float(high)], "cases": len(gaps)}
