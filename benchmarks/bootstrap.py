"""The paired bootstrap over cases that the benchmarks share."""

import numpy as np

DRAWS = 10_000


def paired(gaps: np.ndarray) -> dict:
    """Mean of the differences (N,) of N cases, and the 95% interval of means of N drawn anew; None without any."""
    if not len(gaps):
        return {"mean": None, "interval_95": None, "cases": 0}
    picks = np.random.default_rng(0).integers(len(gaps), size=(DRAWS, len(gaps)))
    low, high = np.percentile(gaps[picks].mean(1), [2.5, 97.5])
    return {"mean": float(gaps.mean()), "interval_95": [float(low), float(high)], "cases": len(gaps)}
