"""A temperature T changes how sure probabilities are and keeps their order:

p_k -> p_k^(1/T) / sum_j p_j^(1/T)
"""

import numpy as np


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
