"""The labels that a fold finds in its validation cases, and the training time that the other labels need.

A label is found in a case if its Dice is at least `FOUND_DICE`. The time is extrapolated from the learning curve of the
label, which is its Dice on the validation patches (`log.jsonl`). A straight line is fitted to the later half of the
curve. The time is where this line reaches `GOOD_DICE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textdiffseg.evaluation.summary import Summary
from textdiffseg.training.log import EpochLog

FOUND_DICE = 0.1  # less overlap may be chance
GOOD_DICE = 0.5  # with this Dice, a structure is found in nearly every case
MIN_EPOCHS = 4  # to fit a line
MIN_DICE_RISE = 0.02  # over these epochs; less may be chance
MAX_EXTRAPOLATION = 100.0  # times the training time so far


@dataclass(frozen=True)
class LabelFinding:
    """The number of validation cases in which a label was found."""

    label: str
    cases: int  # that hold the label
    found: int  # of these, with a Dice of at least `FOUND_DICE`
    hours: float | None  # of total training until `GOOD_DICE`; None: not known


def findings_of(summary: Summary, log: Sequence[EpochLog]) -> tuple[LabelFinding, ...]:
    """The finding of each label that was scored."""
    findings = []
    for name in summary.labels:
        scores = [case.labels[name] for case in summary.cases if name in case.labels]
        present = [score for score in scores if score.reference_ml > 0]
        found = sum((score.dice or 0) >= FOUND_DICE for score in present)
        seconds = None if found == len(present) else _seconds_to_good(name, log)
        findings.append(LabelFinding(name, len(present), found, None if seconds is None else seconds / 3600))
    return tuple(findings)


def _seconds_to_good(name: str, log: Sequence[EpochLog]) -> float | None:
    """Seconds of total training until the line reaches `GOOD_DICE`, or None if it is too flat or too far away."""
    learned = [epoch for epoch in log if "residual" not in epoch.losses]  # while the sampler learns, masks do not
    later = [epoch for epoch in learned if name in epoch.dice][-max(MIN_EPOCHS, len(log) // 2) :]
    if len(later) < MIN_EPOCHS:
        return None
    x, y = (np.array(values) for values in zip(*((epoch.seconds, epoch.dice[name]) for epoch in later), strict=True))
    if np.ptp(x) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    if slope * (x[-1] - x[0]) < MIN_DICE_RISE:
        return None
    seconds = float((GOOD_DICE - offset) / slope)
    return seconds if x[-1] < seconds <= MAX_EXTRAPOLATION * x[-1] else None
