"""Claims that can fail: a difference of Dice over cases and seeds, its bar, and the verdict."""

from collections.abc import Mapping, Sequence

import numpy as np
from bootstrap import paired

CLOSE = 0.01  # a mean difference that is closer to its bar is judged on seeds and their spread
MIN_SEEDS = 3  # for such a verdict
HOLDS, FAILS, OPEN = "holds", "fails", "cannot be told"

Scores = Mapping[str, Mapping[str, float]]
"""Dice by case and label."""


def judge(statement: str, gaps: Mapping[int, Mapping[str, float]], bar: float) -> dict:
    """The verdict on the claim that a mean difference is at least `bar`, with its figures.

    Args:
        statement: the claim, for the report.
        gaps: seed -> case -> difference.
        bar: the smallest mean difference for which the claim holds.
    """
    shared = sorted(set.intersection(*(set(by_case) for by_case in gaps.values()))) if gaps else []
    figures = {"claim": statement, "bar": bar}
    if not shared:
        return figures | {"verdict": OPEN, "note": "no case has a score on both sides"}
    by_seed = np.array([[by_case[case] for case in shared] for by_case in gaps.values()])
    means = by_seed.mean(1)
    return figures | {
        "verdict": verdict(means.tolist(), bar),
        "per_seed": {str(seed): float(mean) for seed, mean in zip(gaps, means, strict=True)},
        "spread": float(np.ptp(means)),
        "pooled": paired(by_seed.mean(0)),
    }


def verdict(means: Sequence[float], bar: float) -> str:
    """The verdict on mean differences, one per seed.

    A mean within `CLOSE` of the bar needs `MIN_SEEDS` seeds, whose spread is at most its distance from the bar.
    """
    margin = float(np.mean(means)) - bar
    close = abs(margin) < CLOSE
    if close and (len(means) < MIN_SEEDS or float(np.ptp(means)) > abs(margin)):
        return OPEN
    return HOLDS if margin >= 0 else FAILS


def case_gaps(ours: Scores, theirs: Scores, labels: Sequence[str] | None = None) -> dict[str, float]:
    """Mean Dice of ours minus theirs, by case, over the labels that both have a Dice of. None: all labels."""
    gaps: dict[str, float] = {}
    for case in sorted(ours.keys() & theirs.keys()):
        shared = [name for name in ours[case] if name in theirs[case] and (labels is None or name in labels)]
        if shared:
            gaps[case] = float(np.mean([ours[case][name] - theirs[case][name] for name in shared]))
    return gaps


def label_means(scores: Scores) -> dict[str, dict]:
    """The mean Dice of each label, and the number of its cases."""
    names = dict.fromkeys(name for by_label in scores.values() for name in by_label)
    values = {name: [by_label[name] for by_label in scores.values() if name in by_label] for name in names}
    return {
        name: {"dice": float(np.mean(dice_of_cases)), "cases": len(dice_of_cases)}
        for name, dice_of_cases in values.items()
    }
