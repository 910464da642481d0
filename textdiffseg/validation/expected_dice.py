"""The fit of the expected Dice: soft Dice and true Dice of validation masks, undegraded and degraded.

The curve is an isotonic regression of Dice on soft Dice, over all labels of all scans. Below the lowest soft Dice it
falls linearly to 0 at 0.

A mask is poor if its mean Dice lies below `POOR_DICE`, or below `POOR_SHARE` of the median of undegraded scans if that
is less: a difficult data set would otherwise have poor masks only. The threshold is the expected Dice that separates
poor masks from the others best: sensitivity + specificity is largest. Without masks of both kinds it is the limit
of poor masks itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plans.plan import Plan
from textdiffseg.data.store import StoredCase
from textdiffseg.folds.expected_dice import KNOTS, DiceCurve, DiceFit
from textdiffseg.inference.volumes import SlabVoxelSums, VoxelSums
from textdiffseg.inference.windows import Slab
from textdiffseg.readout import Readout

POOR_DICE, POOR_SHARE = 0.75, 0.9


@dataclass(frozen=True)
class ScoredMask:
    """Soft Dice and Dice of each label in one predicted scan. NaN: the label is not known there, or in neither mask."""

    case: int  # scans of one case are never in both halves of a cross-fit
    soft_dice: np.ndarray  # (L,)
    dice: np.ndarray  # (L,)
    degraded: bool = False

    @property
    def scored(self) -> np.ndarray:
        """The labels with a Dice (L,) bool."""
        return np.isfinite(self.dice)

    @property
    def mean_dice(self) -> float:
        """The mean Dice over labels."""
        return float(self.dice[self.scored].mean())


class MaskScoring:
    """Scores the mask of a stored case on the plan's grid, from slabs. Ignored voxels are left out of Dice."""

    def __init__(self, stored: StoredCase, readout: Readout):
        self._readout, self._known = readout, stored.record.known
        self._labels = torch.from_numpy(stored.labels[...])
        self._sums = SlabVoxelSums(readout, len(self._known))
        self._common, self._total = np.zeros((2, len(readout.plan.value_numbers)), dtype=np.int64)

    def add(self, slab: Slab) -> None:
        """Add the next planes. Their slots are the known labels of the case."""
        p = slab.prediction.probabilities
        parts = self._readout.plan.value_numbers
        self._sums.add(p)
        labels = self._labels[slab.first : slab.first + p.shape[1]]
        for number, mask in zip(self._known, self._readout.slot_masks(p), strict=True):
            truth = torch.isin(labels, torch.tensor(parts[number - 1], dtype=labels.dtype))
            self._common[number - 1] += int((mask & truth).sum())
            self._total[number - 1] += int((mask & (labels >= 0)).sum()) + int(truth.sum())

    @property
    def sums(self) -> VoxelSums:
        """The sums over all planes, by label."""
        return self._sums.finish().by_label(self._known, len(self._total))

    def finish(self, case: int, degraded: bool = False) -> ScoredMask | None:
        """The scores, for the case with the number `case`. None if no label has a Dice."""
        dice = np.full(len(self._total), np.nan)
        np.divide(2 * self._common, self._total, out=dice, where=self._total > 0)
        return ScoredMask(case, self.sums.soft_dice, dice, degraded) if np.isfinite(dice).any() else None


def fit_expected_dice(masks: Sequence[ScoredMask], plan: Plan, absent: Sequence[int] = ()) -> DiceFit | None:
    """The curve and the threshold, with cross-fitted scores. None without degraded masks, or with one case.

    Args:
        masks: of validation cases, which the fold was not trained on.
        plan: of the fold.
        absent: the numbers of labels that are known to be absent in a validation case.
    """
    halves = [[mask for mask in masks if mask.case % 2 == half] for half in (0, 1)]
    if not all(halves) or not any(mask.degraded for mask in masks):
        return None
    curve = _fit(masks)
    poor = _poor_dice(masks)
    cross_fitted = [MeanDice.of(halves[half], _fit(halves[1 - half])) for half in (0, 1)]
    expected = np.concatenate([mean_dice.expected for mean_dice in cross_fitted])
    true = np.concatenate([mean_dice.true for mean_dice in cross_fitted])
    below = np.concatenate([mean_dice.below for mean_dice in cross_fitted])
    is_poor = true < poor
    return DiceFit(
        curve=curve.curve,
        threshold=curve.threshold,
        may_be_absent=tuple(plan.labels[number - 1].name for number in sorted(set(absent))),
        scans=len(masks),
        degraded=sum(mask.degraded for mask in masks),
        poor_dice=poor,
        error=float(np.abs(expected - true).mean()),
        poor_found=float(below[is_poor].mean()) if is_poor.any() else None,
        good_flagged=float(below[~is_poor].mean()) if not is_poor.all() else None,
    )


def _fit(masks: Sequence[ScoredMask]) -> DiceCurve:
    from scipy.optimize import isotonic_regression

    soft_dice = np.concatenate([mask.soft_dice[mask.scored] for mask in masks])
    dice = np.concatenate([mask.dice[mask.scored] for mask in masks])
    x, groups = np.unique(soft_dice, return_inverse=True)
    counts = np.bincount(groups)
    y = isotonic_regression(np.bincount(groups, weights=dice) / counts, weights=counts).x
    if x[0] > 0:
        x, y = np.append(0.0, x), np.append(0.0, y)
    curve = np.interp(KNOTS, x, y).clip(0, 1).tolist()
    plain = DiceCurve(curve=tuple(curve), threshold=0.0)
    mean_dice = MeanDice.of(masks, plain)
    threshold = _threshold(mean_dice.expected, mean_dice.true, _poor_dice(masks))
    return plain.model_copy(update={"threshold": threshold})


@dataclass(frozen=True)
class MeanDice:
    """The mean Dice over labels of each of N masks."""

    expected: np.ndarray  # (N,) by a curve
    true: np.ndarray  # (N,)
    below: np.ndarray  # (N,) bool: the expected one is below the threshold of the curve

    @classmethod
    def of(cls, masks: Sequence[ScoredMask], curve: DiceCurve) -> "MeanDice":
        """The mean Dice of masks, as a curve expects it and as it is."""
        expected = np.array([curve.expected(mask.soft_dice[mask.scored]).mean() for mask in masks])
        return cls(expected, np.array([mask.mean_dice for mask in masks]), expected < curve.threshold)


def _poor_dice(masks: Sequence[ScoredMask]) -> float:
    """The mean Dice below which a mask is poor."""
    usual = [mask.mean_dice for mask in masks if not mask.degraded]
    return min(POOR_DICE, POOR_SHARE * float(np.median(usual))) if usual else POOR_DICE


def _threshold(expected: np.ndarray, true: np.ndarray, poor: float) -> float:
    """The expected Dice that separates poor masks from the others best: midway between two neighbours."""
    is_poor = true < poor
    if is_poor.all() or not is_poor.any():
        return poor
    values = np.unique(expected)
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    gains = [(expected < cut)[is_poor].mean() - (expected < cut)[~is_poor].mean() for cut in cuts]
    return float(cuts[int(np.argmax(gains))])
