"""A temperature T changes how sure probabilities are and keeps their order:

p_k -> p_k^(1/T) / sum_j p_j^(1/T)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plans.regions import Regions


@dataclass(frozen=True)
class SampledVoxels:
    """Triple of one case near its foreground: what calibration is fitted to and measured on."""

    p: np.ndarray  # (K, N) float32
    truth: np.ndarray  # (N,) class numbers


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


def label_by_label(voxels: SampledVoxels, parts: Regions, known: Sequence[int]) -> SampledVoxels:
    """N voxels of labels that overlap as Q N voxels of two classes, without the label and with it, for Q `known` ones.

    `voxels.truth` holds the numbers that labels are made of, `parts` those of each label.
    """
    p = voxels.p[list(known)].reshape(-1)
    truth = np.concatenate([np.isin(voxels.truth, parts[number - 1]) for number in known])
    return SampledVoxels(np.stack((1 - p, p)), truth.astype(np.int64))
