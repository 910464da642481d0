"""How far samples and folds disagree.

With p_fs the probabilities of fold f and sample s, H the entropy in bits, and means over what is left out,

    H(p) - mean_fs H(p_fs) = [mean_f H(p_f) - mean_fs H(p_fs)] + [H(p) - mean_f H(p_f)]
                               between samples                     between folds

Both parts are mutual informations, hence never negative. They are taken window by window and put together like
probabilities, so that no sample of a whole volume has to be kept. They are of probabilities as the network gives
them; the whole, H(p), is of calibrated ones where a temperature was fitted (`calibration`).

`Readout.entropy` is H. For labels that are a question each it is a sum over labels, and so are both parts.

Samples come from at least 4 steps: one step from pure noise is the posterior mean, which has no spread.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plans.plan import Plan
from plans.records import Record
from textdiffseg.folds.calibration import INTERVAL
from textdiffseg.readout import Readout


class VolumeInterval(Record):
    """The volume of one structure in ml: of the mask, and its 90% interval over samples and folds.

    The interval is widened by the factor that the manifest names, where validation found it short, and then as far as
    it takes to hold the mask's own volume.
    """

    label: str
    volume_ml: float
    low_ml: float | None = None
    high_ml: float | None = None


def disagreement(means: Tensor, inner: Tensor, readout: Readout) -> tuple[Tensor, Tensor]:
    """Between samples and between folds, each (B, D, H, W), in bits.

    `means` (F, B, K, D, H, W) is mean_s p_fs, `inner` (F, B, D, H, W) is mean_s H(p_fs).
    """
    of_folds = readout.entropy(means, 2).mean(0)
    between_samples = of_folds - inner.mean(0)
    between_folds = readout.entropy(means.mean(0), 1) - of_folds
    return between_samples.clamp_(min=0), between_folds.clamp_(min=0)  # rounding alone makes them negative


def slot_volumes(winner: Tensor, share: Tensor, answers: int) -> Tensor:
    """Voxels that each class writes (1 + answers,) float64, of winners (D, H, W), where voxel v counts share(v).

    What slots after the first `answers` win is background. Summed over windows, whose shares add up to one at every
    voxel, this is the volume of one sample.
    """
    winner = torch.where(winner > answers, 0, winner)
    return torch.bincount(winner.flatten(), weights=share.flatten().double(), minlength=1 + answers)


def label_volumes(volumes: np.ndarray, plan: Plan, numbers: Sequence[int]) -> np.ndarray:
    """Voxels of each slot's label (..., Q), where `volumes` (..., 1 + Q) are those that each class writes.

    numbers: of each slot its label. Where labels overlap, a label has its own voxels and those of every slot that
    writes a value which it holds.
    """
    slots = range(1, len(numbers) + 1)
    return np.stack([volumes[..., _slots_within(plan, numbers, slot)].sum(-1) for slot in slots], axis=-1)


def _slots_within(plan: Plan, numbers: Sequence[int], slot: int) -> list[int]:
    """The slots whose voxels belong to the label of `slot`; a forced prompt, numbered beyond the labels, is alone."""
    labels, number = len(plan.labels), numbers[slot - 1]
    held = plan.parts[number - 1] if number <= labels else ()
    return [
        other
        for other, its in enumerate(numbers, start=1)
        if other == slot or (its <= labels and plan.written_numbers[its - 1] in held)
    ]


def interval(volumes: np.ndarray) -> tuple[float, float]:
    """The 90% interval of the volumes of all samples of all folds (any shape)."""
    low, high = np.quantile(np.asarray(volumes, dtype=np.float64), INTERVAL)
    return float(low), float(high)


def coverage(intervals: Sequence[tuple[float, float]], truths: Sequence[float]) -> float:
    """The share of true volumes that lie inside their interval; 0.9 would be calibrated."""
    inside = [low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)]
    return float(np.mean(inside))
