"""Temperature scaling. A temperature T > 1 makes probabilities less confident and keeps their order:

p_k -> p_k^(1/T) / sum_j p_j^(1/T)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plans.regions import Regions
from textdiffseg.masks import mask_of


@dataclass(frozen=True)
class SampledVoxels:
    """Voxels of one case near its foreground. A temperature is fitted to them, and calibration is measured on them."""

    p: np.ndarray  # (K, N) float32
    truth: np.ndarray  # (N,) class numbers


def temper(p: np.ndarray, temperature: float, out: np.ndarray | None = None) -> np.ndarray:
    """Scaled probabilities (K, ...). `out` receives them; it may be `p` itself, which saves memory."""
    out = np.divide(p, p.max(0), out=out)  # the largest becomes 1, so that the sum cannot underflow to 0
    np.power(out, 1 / temperature, out=out)
    out /= out.sum(0)
    return out


def temper_overlapping(p: np.ndarray, temperature: float) -> None:
    """Scale the probabilities p (1 + Q, ...) of overlapping labels in place, each label against its absence."""
    for p_q in p[1:]:
        pair = np.stack((1 - p_q, p_q))
        p_q[...] = temper(pair, temperature, out=pair)[1]
    np.subtract(1, p[1:].max(0), out=p[0])


def label_by_label(voxels: SampledVoxels, parts: Regions, known: Sequence[int]) -> SampledVoxels:
    """Binary voxels of overlapping labels: N voxels and Q labels become Q N voxels of the classes absent and present.

    Args:
        voxels: N voxels. Their `truth` holds value numbers.
        parts: for label 1..N, the value numbers that belong to it (`Plan.value_numbers`).
        known: the Q label numbers whose voxels are known in this case.
    """
    p = voxels.p[list(known)].reshape(-1)
    truth = np.concatenate([mask_of(voxels.truth, parts[label - 1]) for label in known])
    return SampledVoxels(np.stack((1 - p, p)), truth.astype(np.int64))
