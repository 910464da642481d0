"""Scores against several references of one case, and the energy distance of samples to them.

With samples S, S' of a prediction and references Y, Y' of the same case, each pair drawn independently:

    GED^2 = 2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')],    d = 1 - IoU of a label's masks

(generalised energy distance, Kohl et al. 2018). It is 0 if samples are distributed like the references. 1 - IoU is a
metric, and the distance is then never negative. 1 - Dice is not a metric.

Our samples come in pairs with opposite common factors. The means run over all pairs of samples, so these pairs count,
too, and make the set of samples more varied than independent ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from textdiffseg.evaluation.lesions import mean_over_references
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.metrics import BOTH_EMPTY, CaseScores, LabelScores, boxes_of
from textdiffseg.imaging.boxes import joint
from textdiffseg.masks import LabelKey, values_of_key
from textdiffseg.overlaps import intersections, iou_of

RATER_RULE = (
    "Some cases have several references. Their scores are means over the references; best_dice is the Dice with the "
    "nearest one. A label absent from the mask and from one of the references scores Dice 1 and NSD 1 there."
)
GED_RULE = (
    "ged2 is the squared generalised energy distance 2 E[d(S,Y)] - E[d(S,S')] - E[d(Y,Y')] of samples S and "
    "references Y, with d = 1 - IoU. It is 0 if samples are distributed like the references."
)


def mean_over_raters(scores: Sequence[CaseScores]) -> CaseScores:
    """The scores of one case, from those against each of its references. One reference: its scores."""
    if len(scores) == 1:
        return scores[0]
    names = scores[0].labels
    return CaseScores(
        case=scores[0].case, labels={name: _mean_of([score.labels[name] for score in scores]) for name in names}
    )


def _mean_of(scores: Sequence[LabelScores]) -> LabelScores:
    """The mean scores of one label. A label that no mask contains has no score."""
    empty = [score.note == BOTH_EMPTY for score in scores]
    if all(empty):
        return scores[0].model_copy(update={"rater_dice": (None,) * len(scores)})
    dice = tuple(1.0 if is_empty else score.dice for is_empty, score in zip(empty, scores, strict=True))
    measured = any(score.nsd is not None for score in scores)
    nsd = [1.0 if is_empty and measured else score.nsd for is_empty, score in zip(empty, scores, strict=True)]
    return LabelScores(
        dice=mean_of_defined(dice),
        nsd=mean_of_defined(nsd),
        hd95=mean_of_defined(score.hd95 for score in scores),
        volume_ml=float(np.mean([score.volume_ml for score in scores])),
        reference_ml=float(np.mean([score.reference_ml for score in scores])),
        note=_note_of(scores),
        rater_dice=dice,
        best_dice=max(value for value in dice if value is not None),
        lesions=mean_over_references([score.lesions for score in scores if score.lesions is not None]),
    )


def _note_of(scores: Sequence[LabelScores]) -> str:
    notes = {score.note for score in scores}
    if len(notes) == 1:
        return notes.pop()
    absent = sum(score.reference_ml == 0 for score in scores)
    return f"absent from {absent} of {len(scores)} references" if absent else ""


def with_distances(scores: CaseScores, distances: Mapping[str, float]) -> CaseScores:
    """The scores with the energy distance of each label."""
    labels = {
        name: label_scores.model_copy(update={"ged2": distances[name]}) if name in distances else label_scores
        for name, label_scores in scores.labels.items()
    }
    return scores.model_copy(update={"labels": labels})


def energy_distances(
    samples: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    labels: Mapping[LabelKey, str],
    shares: Sequence[float] | None = None,
) -> dict[str, float]:
    """GED^2 of each label that a sample or a reference contains.

    Args:
        samples: (D, H, W) integers.
        references: (D, H, W) integers on the same grid. Voxels that one of them ignores (negative) count nowhere.
        labels: value in the arrays -> label name. A label that overlaps with others has several values.
        shares: of the samples, with sum 1; None: all are equal.
    """
    ignored = np.logical_or.reduce([reference < 0 for reference in references])
    maps = [*samples, *references]
    if ignored.any():
        maps = [np.where(ignored, 0, label_map) for label_map in maps]
    weights = np.full(len(samples), 1 / len(samples)) if shares is None else np.asarray(shares)
    boxes = [boxes_of(label_map, {value for key in labels for value in values_of_key(key)}) for label_map in maps]
    energies = {}
    for key, name in labels.items():
        box = joint(boxes_of_map.get(value) for boxes_of_map in boxes for value in values_of_key(key))
        if box is not None:
            counts = intersections([label_map[box] for label_map in maps], values_of_key(key))
            energies[name] = energy_distance(1 - iou_of(counts), weights)
    return energies


def energy_distance(distances: np.ndarray, shares: np.ndarray) -> float:
    """GED^2, from the distances (S + R, S + R) of S samples with their shares, followed by R references."""
    count = len(shares)
    between_samples, to_references = distances[:count, :count], distances[:count, count:]
    between_references = distances[count:, count:]
    return float(2 * (shares @ to_references).mean() - shares @ between_samples @ shares - between_references.mean())
