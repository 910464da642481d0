"""How far samples and folds disagree.

With p_fs the probabilities of fold f and sample s, H the entropy in bits, and means over what is left out,

    H(p) - mean_fs H(p_fs) = [mean_f H(p_f) - mean_fs H(p_fs)] + [H(p) - mean_f H(p_f)]
                               between samples                     between folds

Both parts are mutual informations, hence never negative. They are taken window by window and put together like
probabilities, so that no sample of a whole volume has to be kept. They are of probabilities as the network gives
them; the whole, H(p), is of calibrated ones where a temperature was fitted (`calibration`).

Samples come from at least 4 steps: one step from pure noise is the posterior mean, which says nothing of the spread.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plans.records import Record

INTERVAL = (0.05, 0.95)


class VolumeInterval(Record):
    """The volume of one structure in ml: of the mask, and its 90% interval over samples and folds.

    The interval is widened by the factor that the manifest names, where validation found it short.
    """

    label: str
    volume_ml: float
    low_ml: float | None = None
    high_ml: float | None = None


def entropy(p: Tensor, dim: int) -> Tensor:
    """H(p) in bits along `dim`."""
    return torch.special.entr(p).sum(dim) / np.log(2)


def total_entropy(probabilities: Tensor) -> Tensor:
    """H(p) in bits (D, H, W) of probabilities (K, D, H, W), class by class, which spares memory."""
    return sum(torch.special.entr(p) for p in probabilities) / np.log(2)


def disagreement(means: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Between samples and between folds, each (B, D, H, W), in bits.

    `means` (F, B, K, D, H, W) is mean_s p_fs, `inner` (F, B, D, H, W) is mean_s H(p_fs).
    """
    of_folds = entropy(means, 2).mean(0)
    between_samples = of_folds - inner.mean(0)
    between_folds = entropy(means.mean(0), 1) - of_folds
    return between_samples.clamp_(min=0), between_folds.clamp_(min=0)  # rounding alone makes them negative


def slot_volumes(p: Tensor, share: Tensor) -> Tensor:
    """Voxels won by each class (K,) float64, where `p` is (K, D, H, W) and voxel v counts share(v).

    Summed over windows, whose shares add up to one at every voxel, this is the volume of one sample.
    """
    winner = p.argmax(0).flatten()
    return torch.bincount(winner, weights=share.flatten().double(), minlength=len(p))


def interval(volumes: np.ndarray) -> tuple[float, float]:
    """The 90% interval of the volumes of all samples of all folds (any shape)."""
    low, high = np.quantile(np.asarray(volumes, dtype=np.float64), INTERVAL)
    return float(low), float(high)


def coverage(intervals: Sequence[tuple[float, float]], truths: Sequence[float]) -> float:
    """The share of true volumes that lie inside their interval; 0.9 would be calibrated."""
    inside = [low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)]
    return float(np.mean(inside))
