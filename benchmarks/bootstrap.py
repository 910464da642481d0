"""The paired bootstrap over cases, for the reports of benchmarks."""

import numpy as np

from textdiffseg.evaluation.comparison import bootstrap_interval


def paired(gaps: np.ndarray) -> dict:
    """The mean of the differences (N,) of N cases, with its 95% bootstrap interval; None if N is 0."""
    if not len(gaps):
        return {"mean": None, "interval_95": None, "cases": 0}
    return {"mean": float(gaps.mean()), "interval_95": [*bootstrap_interval(gaps)], "cases": len(gaps)}
