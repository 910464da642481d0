"""k-medoids: the k samples that represent all n samples best.

    minimise  sum_i min_m d(i, m)  over sets of k medoids m among the samples

Each sample belongs to its nearest medoid. The share of a medoid is the number of its samples divided by n. All sets are
tried, so the result is the exact minimum: n is 16, and there are at most 12,870 sets.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Medoid:
    """A sample that represents its cluster."""

    sample: int
    share: float  # of all samples; the shares of all medoids sum to 1


def medoids(distances: np.ndarray, k: int) -> tuple[Medoid, ...]:
    """The k medoids of n samples, the largest share first. Equal samples count as one: there may be fewer medoids.

    Args:
        distances: (n, n), symmetric, 0 on the diagonal and between equal samples.
        k: from 1 to n.

    Raises:
        ValueError: k is out of range.
    """
    n = len(distances)
    if not 1 <= k <= n:
        raise ValueError(f"expected 1 to {n} medoids, found {k}")
    different = [i for i in range(n) if not (distances[i, :i] == 0).any()]  # the first of equal samples
    sets = np.array(list(combinations(different, min(k, len(different)))))
    costs = distances[:, sets].min(axis=2).sum(axis=0)  # (n, sets, k)
    best = sets[int(np.argmin(costs))]
    nearest = distances[:, best].argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(best))
    order = sorted(range(len(best)), key=lambda cluster: (-counts[cluster], best[cluster]))
    return tuple(Medoid(sample=int(best[cluster]), share=float(counts[cluster] / n)) for cluster in order)
