"""The disagreement between diffusion samples and between folds, and volume intervals.

p_fs are the probabilities of fold f and sample s, and H is the entropy in bits. A missing index is a mean over it:

    H(p) - mean_fs H(p_fs) = [mean_f H(p_f) - mean_fs H(p_fs)] + [H(p) - mean_f H(p_f)]
                               between samples                     between folds

Both terms are mutual informations, so they are never negative. They are computed for each window and averaged over
windows like probabilities. No sample of a whole volume is kept in memory. Both use the network's uncalibrated
probabilities. Only H(p) uses calibrated ones, if a temperature was fitted (`calibration`).

`Readout.entropy` is H. For overlapping labels it is a sum over labels, and so are both terms.

Each sample takes the DDIM steps of the plan. The mask itself comes from a single pass without diffusion.
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
    """The volume of one structure in ml: of its mask, and the 90% interval over samples and folds.

    If validation found the interval too short, it is widened by the factor in the manifest. Then it is extended to
    contain the mask's volume.
    """

    label: str
    volume_ml: float
    low_ml: float | None = None
    high_ml: float | None = None


def disagreement(means: Tensor, inner: Tensor, readout: Readout) -> tuple[Tensor, Tensor]:
    """The disagreement between samples and between folds, each (B, D, H, W) in bits.

    Args:
        means: mean_s p_fs (F, B, K, D, H, W).
        inner: mean_s H(p_fs) (F, B, D, H, W).
        readout: defines H.
    """
    fold_entropy = readout.entropy(means, 2).mean(0)
    between_samples = fold_entropy - inner.mean(0)
    between_folds = readout.entropy(means.mean(0), 1) - fold_entropy
    return between_samples.clamp_(min=0), between_folds.clamp_(min=0)  # rounding can make them negative


def slot_volumes(winner: Tensor, share: Tensor, answers: int) -> Tensor:
    """The number of voxels that each class writes (1 + answers,) float64, weighted by share.

    The windows' shares sum to 1 at every voxel. The sum of these volumes over all windows is thus the volume of one
    sample.

    Args:
        winner: the winning class (D, H, W). Slots after the first `answers` count as background.
        share: the weight (D, H, W) of this window at each voxel.
        answers: the number of slots that are written.
    """
    winner = torch.where(winner > answers, 0, winner)
    return torch.bincount(winner.flatten(), weights=share.flatten().double(), minlength=1 + answers)


def label_volumes(volumes: np.ndarray, plan: Plan, numbers: Sequence[int]) -> np.ndarray:
    """The number of voxels of each slot's label (..., Q).

    If labels overlap, a label contains its own voxels and those of every slot that writes one of its values.

    Args:
        volumes: voxels that each class writes (..., 1 + Q).
        plan: the labels.
        numbers: the label number of each slot.
    """
    slots = range(1, len(numbers) + 1)
    return np.stack([volumes[..., _slots_within(plan, numbers, slot)].sum(-1) for slot in slots], axis=-1)


def _slots_within(plan: Plan, numbers: Sequence[int], slot: int) -> list[int]:
    """The slots whose voxels belong to the label of `slot`.

    A forced prompt has a number above the label numbers. It only has its own slot.
    """
    labels, number = len(plan.labels), numbers[slot - 1]
    own_values = plan.parts[number - 1] if number <= labels else ()
    return [
        other
        for other, other_number in enumerate(numbers, start=1)
        if other == slot or (other_number <= labels and plan.written_numbers[other_number - 1] in own_values)
    ]


def interval(volumes: np.ndarray) -> tuple[float, float]:
    """The 90% interval (low, high) of the volumes of all samples of all folds (any shape)."""
    low, high = np.quantile(np.asarray(volumes, dtype=np.float64), INTERVAL)
    return float(low), float(high)


def coverage(intervals: Sequence[tuple[float, float]], truths: Sequence[float]) -> float:
    """The share of true volumes inside their interval. 0.9 is calibrated."""
    inside = [low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)]
    return float(np.mean(inside))
