"""Volume intervals and soft Dice of a prediction, from its probabilities before temperature scaling.

p(v) is the probability of a label at voxel v, and T the temperature of the calibration. A temperature for a label
against its absence divides logit p = ln(p / (1 - p)) by T. The volume V of the label has the quantiles

    V_q = number of voxels with p_T(v) > 1 - q = number of voxels with logit p(v) > T logit(1 - q).

So the volumes of all temperatures follow from one histogram of logit p, and no array is scaled. These volumes are
those of masks that grow together: a voxel belongs to the larger of two masks if it belongs to the smaller one.

With the mask M of the label,

    soft Dice = 2 sum_M p / (sum p + |M|),    sum p over voxels with p > `MIN_SUMMED_P`,

which is about the mean Dice if p were true and the voxels independent. The many voxels of a large scan with nearly
no probability would add up to more than a small structure, so they are left out.

Labels are the slots of the prediction. All sums run over slabs, so no further array of the volume's size is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plans.records import Record
from textdiffseg.folds.calibration import INTERVAL
from textdiffseg.readout import Readout

MAX_LOGIT, BIN = 14.0, 0.05  # p between 1e-6 and 1 - 1e-6
EDGES = np.linspace(-MAX_LOGIT, MAX_LOGIT, round(2 * MAX_LOGIT / BIN) + 1)
MIN_P = float(1 / (1 + np.exp(MAX_LOGIT)))
MIN_SUMMED_P = 0.01
SLAB_VOXELS = 1 << 20


class VolumeInterval(Record):
    """The volume of one structure in ml: of its mask, and its 90% interval.

    The interval is widened by the factor of the calibration. Then it is extended to contain the mask's volume.
    """

    label: str
    volume_ml: float
    low_ml: float | None = None
    high_ml: float | None = None


@dataclass(frozen=True)
class VoxelSums:
    """Sums over the voxels of a prediction of Q slots."""

    levels: np.ndarray  # (Q, bins) number of voxels by logit p; voxels with p < `MIN_P` are left out
    soft_dice: np.ndarray  # (Q,) 0 for an empty mask
    voxels: np.ndarray  # (Q,) of the masks

    def volumes(self, quantiles: np.ndarray | tuple[float, ...], temperature: float = 1.0) -> np.ndarray:
        """The quantiles V_q (Q, quantiles) of each slot's volume, in voxels."""
        q = np.asarray(quantiles, dtype=np.float64)
        thresholds = temperature * np.log((1 - q) / q)
        above = np.pad(self.levels[:, ::-1].cumsum(1)[:, ::-1], ((0, 0), (0, 1)))  # at each edge
        return np.stack([np.interp(thresholds, EDGES, above_of_slot) for above_of_slot in above])

    def by_label(self, numbers: Sequence[int], labels: int) -> "VoxelSums":
        """The sums of all `labels` labels, in label order. `numbers`: the label number of each slot; others get 0."""
        rows = np.array(numbers, dtype=int) - 1

        def placed(values: np.ndarray) -> np.ndarray:
            by_label = np.zeros((labels, *values.shape[1:]))
            by_label[rows] = values
            return by_label

        return VoxelSums(placed(self.levels), placed(self.soft_dice), placed(self.voxels))

    def interval(self, temperature: float = 1.0) -> np.ndarray:
        """The 90% interval (Q, 2) of each slot's volume, in voxels."""
        return self.volumes(INTERVAL, temperature)


class SlabVoxelSums:
    """The sums over a prediction that arrives slab by slab."""

    def __init__(self, readout: Readout, slots: int):
        """`slots`: the leading slots to sum over."""
        self._readout, self._slots = readout, slots
        self._levels, self._sums = np.zeros((slots, len(EDGES) - 1)), np.zeros((slots, 3))

    def add(self, probabilities: Tensor) -> None:
        """Add p (1 + Q, D, H, W) of the next planes."""
        step = max(1, SLAB_VOXELS // max(1, probabilities[0, 0].numel()))
        for slab in probabilities.split(step, dim=1):
            masks = self._readout.slot_masks(slab)
            for slot, (p, mask) in enumerate(zip(slab[1 : 1 + self._slots], masks, strict=False)):
                self._levels[slot] += _by_level(p.numpy())
                inside = p[mask]
                totals = p[p > MIN_SUMMED_P].sum(dtype=torch.float64), inside.sum(dtype=torch.float64), inside.numel()
                self._sums[slot] += [float(total) for total in totals]

    def finish(self) -> VoxelSums:
        """The sums over all planes."""
        total, inside, voxels = self._sums.T
        with np.errstate(invalid="ignore"):
            soft_dice = np.where(voxels > 0, 2 * inside / (total + voxels), 0.0)
        return VoxelSums(self._levels, soft_dice, voxels)


def _by_level(p: np.ndarray) -> np.ndarray:
    """The number of voxels of p (D, H, W) in each bin of logit p. The last bin also holds all larger ones."""
    p = p[p > MIN_P].astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(p) - np.log1p(-p)
    bins = np.clip((logits + MAX_LOGIT) / BIN, 0, len(EDGES) - 2).astype(np.int64)
    return np.bincount(bins, minlength=len(EDGES) - 1)
