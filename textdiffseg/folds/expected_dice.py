"""The expected Dice of a mask without a reference: what the soft Dice of earlier masks was worth.

A curve maps the soft Dice of a label (`inference.volumes`) to its expected Dice. It is fitted to validation scans,
undegraded and degraded, all labels together (`validation.expected_dice`). A mask below the threshold should be checked.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from plans.records import Record

KNOTS = tuple(np.linspace(0, 1, 21).round(2).tolist())  # soft Dice at which the curve is stored


class DiceCurve(Record):
    """The expected Dice as a function of soft Dice, and the threshold of a check."""

    curve: tuple[float, ...] = Field(min_length=len(KNOTS), max_length=len(KNOTS))  # at the soft Dice of `KNOTS`
    threshold: float  # a mean expected Dice below it: check the mask
    may_be_absent: tuple[str, ...] = ()  # labels that a validation case lacks: their mask may be empty and right

    def expected(self, soft_dice: np.ndarray) -> np.ndarray:
        """The expected Dice of masks with a soft Dice, both of any shape. Linear between the knots."""
        return np.interp(soft_dice, KNOTS, self.curve)


class DiceFit(DiceCurve):
    """A curve with what it was fitted to, and how well it held on scans that it was not fitted to."""

    scans: int = Field(ge=1)
    degraded: int = Field(ge=0)  # of these scans
    poor_dice: float  # the threshold separates masks with a mean Dice below it from the others
    error: float  # mean of |expected - true| of the mean Dice of a scan; cross-fitted, like the two shares below
    poor_found: float | None = None  # share of the poor masks that lie below the threshold; None: no poor mask
    good_flagged: float | None = None  # share of the other masks that lie below it; None: no other mask


class ExpectedDice(Record):
    """The expected Dice of one predicted case."""

    mean: float | None  # over `labels`; None if it is not known for any label
    labels: dict[str, float]  # without labels whose mask is empty and may be, and without unknown phrases
    threshold: float | None  # None: a part of the labels was queried, and the threshold is for the mean of all

    @property
    def needs_check(self) -> bool:
        """Whether the mean lies below the threshold."""
        return self.mean is not None and self.threshold is not None and self.mean < self.threshold

    @property
    def poor_labels(self) -> tuple[str, ...]:
        """The labels whose own expected Dice is less than half of the threshold: missing, or mostly wrong."""
        return tuple(name for name, dice in self.labels.items() if self.threshold and dice < self.threshold / 2)

    @property
    def note(self) -> str | None:
        """A sentence that advises to check the mask; None if it needs no check."""
        if self.mean is None or self.threshold is None or not self.needs_check:
            return None
        lowest = min(self.labels, key=lambda name: self.labels[name])
        of_label = f", of {lowest} {self.labels[lowest]:.2f}" if len(self.labels) > 1 else ""
        digits = 3 if f"{self.mean:.2f}" == f"{self.threshold:.2f}" else 2
        mean, threshold = (f"{value:.{digits}f}" for value in (self.mean, self.threshold))
        return f"Check this mask: its expected Dice is {mean}{of_label} (threshold {threshold})."


def pooled_curve(weighted: Sequence[tuple[DiceCurve, int]]) -> DiceCurve | None:
    """The mean of the folds' curves and thresholds, weighted by their cases. None without a curve."""
    if not weighted:
        return None
    curves, weights = zip(*weighted, strict=True)
    return DiceCurve(
        curve=tuple(np.average([curve.curve for curve in curves], axis=0, weights=weights).tolist()),
        threshold=float(np.average([curve.threshold for curve in curves], weights=weights)),
        may_be_absent=tuple(sorted({name for curve in curves for name in curve.may_be_absent})),
    )
