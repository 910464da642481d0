"""Metrics of one case for each label, on the reference's grid.

With X the predicted and Y the reference mask of a label:

    Dice = 2 |X n Y| / (|X| + |Y|)
    NSD  = share of both surfaces' area that lies within the tolerance of the other surface
    HD95 = the larger of the two directed 95th percentiles of surface distances, in mm

`surfaces` defines the last two, and `lesions` the scores of single lesions.

Empty masks: a label absent from both masks is correct and has no score (`None`, left out of every mean). A label in
only one of the two masks scores Dice 0 and NSD 0, and its HD95 is undefined.
"""

import importlib.util
from collections.abc import Collection, Mapping

import numpy as np

from plans.geometry import Millimetres
from plans.raw.dataset import CaseId
from plans.records import Record
from textdiffseg.evaluation.lesions import LesionScores, lesion_scores
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.surfaces import surface_scores
from textdiffseg.imaging.boxes import joint
from textdiffseg.masks import LabelKey, mask_of, values_of_key

EMPTY_BOX = (slice(0, 0),) * 3  # of a label absent from both masks
EMPTY_RULE = (
    "A label absent from both masks is correct and left out of the means; a label in only one of the two "
    "scores Dice 0 and NSD 0, its HD95 is undefined and left out."
)
NSD_DEFINITION = (
    "Normalised surface Dice at the tolerance, surface areas at sub-voxel corners (equals DeepMind's surface-distance)."
)
HD95_DEFINITION = (
    "Larger of the two directed 95th percentiles of surface distances in mm, weighted by surface area at sub-voxel "
    "corners (equals DeepMind's surface-distance)."
)

BOTH_EMPTY = "absent from both"
PREDICTION_EMPTY = "missed: not in the prediction"
REFERENCE_EMPTY = "false positive: not in the reference"
MAX_DIRECT_VALUE = 32767  # up to this value boxes are found by value itself, which takes memory for every value


class LabelScores(Record):
    """The scores of one label in one case. `None` is an undefined score (the module states the rule)."""

    dice: float | None
    nsd: float | None
    hd95: float | None  # mm
    volume_ml: float  # of the prediction
    reference_ml: float
    note: str = ""
    rater_dice: tuple[float | None, ...] = ()  # Dice with each reference, if there are several
    best_dice: float | None = None  # with the nearest reference, if there are several
    ged2: float | None = None  # squared generalised energy distance of samples to several references
    lesions: LesionScores | None = None  # if they were requested


class CaseScores(Record):
    """The scores of one case for each label name."""

    case: CaseId = ""
    labels: dict[str, LabelScores]

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice over the labels with a defined Dice; `None` if there are none."""
        return mean_of_defined(scores.dice for scores in self.labels.values())


def surfaces_available() -> bool:
    """Whether surface-distance is installed. NSD and HD95 need its table of surface areas."""
    return importlib.util.find_spec("surface_distance") is not None


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Dice of two masks (bool, any axes) of the same shape; `None` if both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2.0 * np.count_nonzero(prediction & reference) / total if total else None


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Millimetres,
    labels: Mapping[LabelKey, str],
    tolerance_mm: float = 1.0,
    *,
    case: str = "",
    surfaces: bool = True,
    lesions: Collection[str] = (),
) -> CaseScores:
    """The scores of every label of one case.

    NSD and HD95 are `None` without `surfaces`, and if surface-distance is not installed.

    Args:
        prediction: (D, H, W) integers.
        reference: (D, H, W) integers on the same grid. Negative voxels are ignored: they count in neither mask.
        spacing: mm, (D, H, W).
        labels: value in the arrays -> label name. A label that overlaps with others has several values.
        tolerance_mm: of NSD.
        case: case id for the result.
        surfaces: whether NSD and HD95 are computed.
        lesions: names of the labels whose lesions are scored.

    Raises:
        ValueError: the two arrays differ in shape.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must have one shape")
    surfaces = surfaces and surfaces_available()
    millilitres = float(np.prod(spacing)) / 1000.0
    values_of = {name: values_of_key(key) for key, name in labels.items()}
    all_values = {value for values in values_of.values() for value in values}
    boxes_predicted, boxes_reference = boxes_of(prediction, all_values), boxes_of(reference, all_values)
    scores = {}
    for name, values in values_of.items():
        box = joint(boxes.get(value) for value in values for boxes in (boxes_predicted, boxes_reference)) or EMPTY_BOX
        known = reference[box] >= 0
        predicted = mask_of(prediction[box], values) & known
        reference_mask = mask_of(reference[box], values)
        scores[name] = _score_label(predicted, reference_mask, spacing, tolerance_mm, millilitres, surfaces)
        if name in lesions:
            of_lesions = lesion_scores(predicted, reference_mask)
            scores[name] = scores[name].model_copy(update={"lesions": of_lesions})
    return CaseScores(case=case, labels=scores)


def _score_label(
    predicted: np.ndarray,
    reference_mask: np.ndarray,
    spacing: Millimetres,
    tolerance_mm: float,
    millilitres: float,
    surfaces: bool,
) -> LabelScores:
    volumes = {
        "volume_ml": np.count_nonzero(predicted) * millilitres,
        "reference_ml": np.count_nonzero(reference_mask) * millilitres,
    }
    if not predicted.any() and not reference_mask.any():
        return LabelScores(dice=None, nsd=None, hd95=None, note=BOTH_EMPTY, **volumes)
    if not predicted.any() or not reference_mask.any():
        note = REFERENCE_EMPTY if predicted.any() else PREDICTION_EMPTY
        return LabelScores(dice=0.0, nsd=0.0 if surfaces else None, hd95=None, note=note, **volumes)
    overlap = dice(predicted, reference_mask)
    if not surfaces:
        return LabelScores(dice=overlap, nsd=None, hd95=None, **volumes)
    nsd, hd95 = surface_scores(predicted, reference_mask, spacing, tolerance_mm)
    return LabelScores(dice=overlap, nsd=nsd, hd95=hd95, **volumes)


def boxes_of(array: np.ndarray, values: Collection[int]) -> dict[int, tuple[slice, ...]]:
    """The bounding box of each positive value that occurs in `array`. The array is read once for all values."""
    from scipy.ndimage import find_objects

    positive = np.array(sorted({value for value in values if value > 0}))
    if not len(positive):
        return {}
    if positive[-1] > MAX_DIRECT_VALUE:
        rows = np.searchsorted(positive, array).clip(max=len(positive) - 1)
        numbers = dict(enumerate(positive.tolist(), start=1))  # number in `array` -> value
        array = np.where(positive[rows] == array, rows + 1, 0)
    else:
        numbers = {value: value for value in positive.tolist()}
        array = np.where(array > 0, array, 0)
    boxes = find_objects(array.astype(np.int32), max_label=max(numbers))
    return {value: boxes[number - 1] for number, value in numbers.items() if boxes[number - 1] is not None}
