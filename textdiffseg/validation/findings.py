"""Which labels a fold finds in its validation cases, and how long the training of those it misses may still take.

A label is found in a case where the Dice of predicted and true mask is at least `FOUND_DICE`. The time is read off the
learning curve: the Dice of the label on the validation patches, as `log.jsonl` has it, continued as a straight line to
`GOOD_DICE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textdiffseg.evaluation.report import Summary
from textdiffseg.training.log import EpochLog

FOUND_DICE = 0.1  # less overlap is chance
GOOD_DICE = 0.5  # at which a structure is found in nearly every case
MIN_EPOCHS = 4  # of the later half of the curve, for a line through it
MIN_RISE = 0.02  # of the Dice over these epochs; less may be chance
MAX_LONGER = 100.0  # times the training so far; a line does not reach further


@dataclass(frozen=True)
class LabelFinding:
    """In how many validation cases a label was found."""

    label: str
    cases: int  # that hold the label
    found: int  # of these, with a Dice of at least `FOUND_DICE`
    hours: float | None  # of training in all until `GOOD_DICE`, by the learning curve; None where it does not tell


def findings_of(summary: Summary, log: Sequence[EpochLog]) -> tuple[LabelFinding, ...]:
    """What was found of each label that was scored."""
    findings = []
    for name in summary.labels:
        scores = [case.labels[name] for case in summary.cases if name in case.labels]
        held = [score for score in scores if score.reference_ml > 0]
        found = sum((score.dice or 0) >= FOUND_DICE for score in held)
        seconds = None if found == len(held) else _seconds_to_good(name, log)
        findings.append(LabelFinding(name, len(held), found, None if seconds is None else seconds / 3600))
    return tuple(findings)


def _seconds_to_good(name: str, log: Sequence[EpochLog]) -> float | None:
    """Seconds of training in all after which the line through the later half of a label's curve is at `GOOD_DICE`."""
    later = [epoch for epoch in log if name in epoch.dice][-max(MIN_EPOCHS, len(log) // 2) :]
    if len(later) < MIN_EPOCHS:
        return None
    x, y = (np.array(values) for values in zip(*((epoch.seconds, epoch.dice[name]) for epoch in later), strict=True))
    if np.ptp(x) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    if slope * (x[-1] - x[0]) < MIN_RISE:
        return None
    seconds = float((GOOD_DICE - offset) / slope)
    return seconds if x[-1] < seconds <= MAX_LONGER * x[-1] else None
