"""Scores of single lesions.

A lesion is a connected component of a label's mask: its voxels share a face, an edge or a corner. A predicted lesion
and a reference lesion match if they have a voxel in common. A lesion matches one other lesion at most. Pairs are chosen
in the order of their IoU, the largest first. With M matches, P predicted and R reference lesions:

    precision = M / P,   recall = M / R,   F1 = 2 M / (P + R)
    Dice = sum of the Dice of the matched pairs / (P + R - M)

So missed and false lesions have Dice 0 (lesion-wise Dice, as in BraTS 2023, here without dilation). Without any lesion
in both masks, nothing is defined. Without a predicted lesion, precision is undefined, and without a reference lesion,
recall is.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from plans.records import Record
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.imaging.components import components_of

LESION_RULE = (
    "A lesion is a 26-connected component. Predicted and reference lesions match one to one if they overlap, those "
    "with the largest IoU first. Missed and false lesions have Dice 0. Cases without any lesion are left out."
)


class LesionScores(Record):
    """The scores of a label's lesions. `None` is an undefined score (the module states the rule).

    The counts of one case are means over its references, if it has several. Those of several cases are sums.
    """

    dice: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    predicted: float  # number of lesions in the prediction
    reference: float  # number of lesions in the reference
    matched: float  # number of pairs


def lesion_scores(predicted: np.ndarray, expected: np.ndarray) -> LesionScores:
    """The lesion scores of two masks (D, H, W) bool on one grid."""
    predicted_lesions, n_predicted = components_of(predicted)
    reference_lesions, n_reference = components_of(expected)
    predicted_sizes = np.bincount(predicted_lesions[predicted], minlength=n_predicted + 1)
    reference_sizes = np.bincount(reference_lesions[expected], minlength=n_reference + 1)
    common = predicted & expected
    # One number for each pair of overlapping lesions (a, b), which is faster than unique rows.
    codes = predicted_lesions[common].astype(np.int64) * (n_reference + 1) + reference_lesions[common]
    pairs, intersections = np.unique(codes, return_counts=True)
    a, b = np.divmod(pairs, n_reference + 1)
    sizes = predicted_sizes[a] + reference_sizes[b]
    matched = _match(a, b, iou=intersections / (sizes - intersections))
    sum_of_dice = float((2 * intersections[matched] / sizes[matched]).sum())
    return _scores(sum_of_dice, len(matched), n_predicted, n_reference)


def _match(a: np.ndarray, b: np.ndarray, iou: np.ndarray) -> list[int]:
    """The rows of the pairs that match one to one, the largest IoU first.

    `a`: the predicted lesion (N,) of each overlapping pair. `b`: its reference lesion (N,).
    """
    unmatched_a, unmatched_b, rows = set(a.tolist()), set(b.tolist()), []
    for row in np.lexsort((b, a, -iou)).tolist():
        if a[row] in unmatched_a and b[row] in unmatched_b:
            unmatched_a.remove(a[row])
            unmatched_b.remove(b[row])
            rows.append(row)
    return rows


def _scores(sum_of_dice: float, matched: int, predicted: int, reference: int) -> LesionScores:
    """The scores, from the sum over the matched pairs and the numbers of lesions."""
    lesions = predicted + reference - matched
    return LesionScores(
        dice=sum_of_dice / lesions if lesions else None,
        precision=matched / predicted if predicted else None,
        recall=matched / reference if reference else None,
        f1=2 * matched / (predicted + reference) if lesions else None,
        predicted=predicted,
        reference=reference,
        matched=matched,
    )


def mean_over_references(scores: Sequence[LesionScores]) -> LesionScores | None:
    """The means over the references of one case; None if lesions were not measured.

    Where prediction and reference have no lesion, Dice and F1 are 1.
    """
    empty = [not (score.predicted or score.reference) for score in scores]
    if all(empty):
        return scores[0] if scores else None
    return LesionScores(
        dice=mean_of_defined(1.0 if none else score.dice for none, score in zip(empty, scores, strict=True)),
        precision=mean_of_defined(score.precision for score in scores),
        recall=mean_of_defined(score.recall for score in scores),
        f1=mean_of_defined(1.0 if none else score.f1 for none, score in zip(empty, scores, strict=True)),
        predicted=float(np.mean([score.predicted for score in scores])),
        reference=float(np.mean([score.reference for score in scores])),
        matched=float(np.mean([score.matched for score in scores])),
    )


def mean_over_cases(scores: Iterable[LesionScores | None]) -> LesionScores | None:
    """The means of the scores, and the sums of the counts. None if lesions were not measured."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    return LesionScores(
        dice=mean_of_defined(score.dice for score in known),
        precision=mean_of_defined(score.precision for score in known),
        recall=mean_of_defined(score.recall for score in known),
        f1=mean_of_defined(score.f1 for score in known),
        predicted=sum(score.predicted for score in known),
        reference=sum(score.reference for score in known),
        matched=sum(score.matched for score in known),
    )
