"""Compare the scores of two sets of segmentations of the same cases.

x_c and y_c are the scores of case c. Cases where one of them is undefined are left out. With d_c = x_c - y_c:

    interval_95    percentiles 2.5 and 97.5 of the mean of N differences, drawn with replacement from d_1 ... d_N
    p              two-sided p-value of Wilcoxon's signed-rank test of d_1 ... d_N

The score of all labels is, for each case, the mean over the labels that both sets have.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from plans.errors import UserError, listed
from plans.records import Record
from textdiffseg.evaluation.metrics import BOTH_EMPTY, CaseScores, LabelScores

DRAWS = 10_000
MAX_DRAWN = 2**24  # differences drawn at once
SCORES = ("dice", "nsd", "hd95")
LESION_SCORES = {"lesion_dice": "dice", "lesion_f1": "f1"}  # name -> field of `LesionScores`
RULE = (
    "Differences are paired by case. If a label is absent from the reference, a mask without it scores 1 against one "
    "that has it. The interval is that of a bootstrap over the cases with 10,000 draws. "
    "p is that of Wilcoxon's two-sided signed-rank test, not corrected for the number of tests."
)


class Difference(Record):
    """A score of two sets of segmentations, over the cases in which both have it. Everything is None without a case."""

    cases: int
    first: float | None  # mean of the first set
    second: float | None  # mean of the second set
    difference: float | None  # first minus second
    interval_95: tuple[float, float] | None  # of the difference; None with less than 2 cases
    p: float | None  # 1 if all differences are 0; None with less than 2 cases


class Comparison(Record):
    """The differences between two sets of segmentations."""

    against: str  # the folder of the second set
    rule: str = RULE
    only_first: tuple[str, ...] = ()  # cases that only the first set has
    only_second: tuple[str, ...] = ()
    mean: dict[str, Difference]  # by score: of each case's mean over the labels
    labels: dict[str, dict[str, Difference]]  # by label and score


def compare(first: Sequence[CaseScores], second: Sequence[CaseScores], against: str) -> Comparison:
    """The differences between the scores of two sets.

    Args:
        first: the scores of the first set, one record per case.
        second: those of the second set.
        against: the name of the second set.

    Raises:
        UserError: no case has a label that both sets have.
    """
    ours = {case.case: case.labels for case in first}
    theirs = {case.case: case.labels for case in second}
    names = dict.fromkeys(
        name for case in first if case.case in theirs for name in case.labels if name in theirs[case.case]
    )
    if not names:
        raise UserError(
            f"--against {against}: its scored labels ({_labels(second)}) are not those of the first segmentations "
            f"({_labels(first)}) in any case. Give segmentations of the same cases and labels."
        )
    # For each case that both sets have: the scores of the labels that both have there.
    shared = [
        {
            name: _pairs_of_label(ours[case][name], theirs[case][name])
            for name in names
            if name in ours[case] and name in theirs[case]
        }
        for case in sorted(ours.keys() & theirs.keys())
    ]
    return Comparison(
        against=against,
        only_first=tuple(sorted(ours.keys() - theirs.keys())),
        only_second=tuple(sorted(theirs.keys() - ours.keys())),
        mean=_differences([_means(list(labels.values())) for labels in shared]),
        labels={name: _differences([labels[name] for labels in shared if name in labels]) for name in names},
    )


Pairs = Mapping[str, tuple[float, float]]
"""By score, the values of both sets in one case. Scores that one of them lacks are left out."""


def _pairs_of_label(first: LabelScores, second: LabelScores) -> Pairs:
    """The values of one label in one case."""
    pairs: dict[str, tuple[float | None, float | None]]
    pairs = {score: (_score_against(first, second, score), _score_against(second, first, score)) for score in SCORES}
    if first.lesions is not None and second.lesions is not None:
        pairs |= {
            score: (getattr(first.lesions, field), getattr(second.lesions, field))
            for score, field in LESION_SCORES.items()
        }
    return {score: (a, b) for score, (a, b) in pairs.items() if a is not None and b is not None}


def _score_against(scores: LabelScores, other: LabelScores, score: str) -> float | None:
    """A score. It is 1 if a label is rightly absent from a mask, and wrongly present in the other one."""
    rightly_absent = score != "hd95" and scores.note == BOTH_EMPTY and getattr(other, score) is not None
    return 1.0 if rightly_absent else getattr(scores, score)


def _means(labels: Sequence[Pairs]) -> Pairs:
    """The means of one case over its labels."""
    scores = dict.fromkeys(score for label in labels for score in label)
    pairs = {score: np.mean([label[score] for label in labels if score in label], axis=0) for score in scores}
    return {score: (float(first), float(second)) for score, (first, second) in pairs.items()}


def _differences(cases: Sequence[Pairs]) -> dict[str, Difference]:
    """The difference in each score. Scores of lesions only if a case has them."""
    lesion_scores = [score for score in LESION_SCORES if any(score in case for case in cases)]
    return {
        score: difference_of(np.array([case[score] for case in cases if score in case]).reshape(-1, 2))
        for score in (*SCORES, *lesion_scores)
    }


def difference_of(pairs: np.ndarray) -> Difference:
    """The difference of scores (N, 2) of N cases in two sets."""
    if not len(pairs):
        return Difference(cases=0, first=None, second=None, difference=None, interval_95=None, p=None)
    gaps, (first, second) = pairs[:, 0] - pairs[:, 1], pairs.mean(0)
    several = len(pairs) > 1
    return Difference(
        cases=len(pairs),
        first=float(first),
        second=float(second),
        difference=float(gaps.mean()),
        interval_95=bootstrap_interval(gaps) if several else None,
        p=signed_rank_p(gaps) if several else None,
    )


def bootstrap_interval(gaps: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of the mean of differences (N,), N > 0. Equal differences give equal intervals."""
    rng, at_once = np.random.default_rng(0), max(1, MAX_DRAWN // len(gaps))
    means = []
    for first in range(0, DRAWS, at_once):
        picks = rng.integers(len(gaps), size=(min(at_once, DRAWS - first), len(gaps)))
        means.append(gaps[picks].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def signed_rank_p(gaps: np.ndarray) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test. It leaves out differences of 0; 1 if all are 0."""
    from scipy.stats import wilcoxon

    if not gaps.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # older versions warn if ties prevent the exact test of few cases
        return float(wilcoxon(gaps).pvalue)


def _labels(cases: Sequence[CaseScores]) -> str:
    return listed(list(dict.fromkeys(name for case in cases for name in case.labels)))
