"""The mean of scores, some of which may be undefined."""

from collections.abc import Iterable

import numpy as np


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
