"""Metrics of one case, label by label, on the grid that the reference has.

With X the predicted and Y the reference mask of a label:

    Dice = 2 |X n Y| / (|X| + |Y|)
    NSD  = share of both surfaces' area that lies within the tolerance of the other surface (normalised surface
           Dice, Nikolov et al. 2018; areas at sub-voxel corners, as in DeepMind's surface-distance)
    HD95 = the larger of the two directed 95th percentiles of surface distances, in mm

An empty mask is no accident but an answer: a label that neither mask has is right and has no score (`None`, left
out of every mean); a label that only one of the two has scores Dice 0 and NSD 0, and its HD95 is undefined.
"""

import importlib.util
import warnings
from collections.abc import Collection, Mapping

import numpy as np

from plans.geometry import Millimetres
from plans.records import Record
from textdiffseg.imaging.boxes import joint
from textdiffseg.resources import free_memory

EMPTY = (slice(0, 0),) * 3  # the box of a label that neither mask has
EMPTY_RULE = (
    "A label absent from both masks is correct and left out of the means; a label in only one of the two "
    "scores Dice 0 and NSD 0, its HD95 is undefined and left out."
)
NSD_DEFINITION = (
    "Normalised surface Dice at the tolerance, surface areas at sub-voxel corners "
    "(MONAI SurfaceDiceMetric, use_subvoxels=True; equals DeepMind's surface-distance)."
)
HD95_DEFINITION = (
    "Larger of the two directed 95th percentiles of distances between edge voxels, in mm "
    "(MONAI compute_hausdorff_distance)."
)

BOTH_EMPTY = "absent from both"
PREDICTION_EMPTY = "missed: not in the prediction"
REFERENCE_EMPTY = "false positive: not in the reference"
TOO_LARGE = "too large for surfaces in the free memory"
LARGEST_COUNTED = 32767  # value up to which boxes are found by value, for which memory is taken
SURFACE_BYTES = 140  # a voxel of the label's box, measured at 160 x 160 x 160


class LabelScores(Record):
    """The scores of one label in one case; `None` is undefined (see the module's rule for empty masks)."""

    dice: float | None
    nsd: float | None
    hd95: float | None  # mm
    volume_ml: float  # of the prediction
    reference_ml: float
    note: str = ""


class CaseScores(Record):
    """The scores of one case, by label name."""

    case: str = ""
    labels: dict[str, LabelScores]

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice over the labels that have one; `None` where no label has."""
        values = [scores.dice for scores in self.labels.values() if scores.dice is not None]
        return float(np.mean(values)) if values else None


def surfaces_available() -> bool:
    """Whether MONAI, which measures surfaces, is installed."""
    return importlib.util.find_spec("monai") is not None


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Dice of two masks of one shape; `None` where both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2.0 * np.count_nonzero(prediction & reference) / total if total else None


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Millimetres,
    labels: Mapping[int | tuple[int, ...], str],
    tolerance_mm: float = 1.0,
    *,
    case: str = "",
    surfaces: bool = True,
) -> CaseScores:
    """Score every label of one case.

    prediction, reference: (D, H, W) whole numbers on one grid; spacing: mm in the same axis order;
    labels: number in the arrays -> name, or the numbers of a label that overlaps with others; voxels with negative
    reference are left out of both masks (ignore).
    Without `surfaces`, without MONAI, and for labels whose surfaces take more memory than is free, NSD and HD95 are
    `None`.

    Raises:
        ValueError: the two arrays differ in shape.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must have one shape")
    surfaces = surfaces and surfaces_available()
    millilitres = float(np.prod(spacing)) / 1000.0
    parts = {name: key if isinstance(key, tuple) else (key,) for key, name in labels.items()}
    numbers = {number for held in parts.values() for number in held}
    boxes_predicted, boxes_reference = _boxes(prediction, numbers), _boxes(reference, numbers)
    scores = {}
    for name, held in parts.items():
        box = joint(boxes.get(number) for number in held for boxes in (boxes_predicted, boxes_reference)) or EMPTY
        known = reference[box] >= 0
        predicted, expected = _mask(prediction[box], held) & known, _mask(reference[box], held)
        scores[name] = _score_label(predicted, expected, spacing, tolerance_mm, millilitres, surfaces)
    return CaseScores(case=case, labels=scores)


def _score_label(
    predicted: np.ndarray,
    expected: np.ndarray,
    spacing: Millimetres,
    tolerance_mm: float,
    millilitres: float,
    surfaces: bool,
) -> LabelScores:
    volumes = {
        "volume_ml": np.count_nonzero(predicted) * millilitres,
        "reference_ml": np.count_nonzero(expected) * millilitres,
    }
    if not predicted.any() and not expected.any():
        return LabelScores(dice=None, nsd=None, hd95=None, note=BOTH_EMPTY, **volumes)
    if not predicted.any() or not expected.any():
        note = REFERENCE_EMPTY if predicted.any() else PREDICTION_EMPTY
        return LabelScores(dice=0.0, nsd=0.0 if surfaces else None, hd95=None, note=note, **volumes)
    overlap = dice(predicted, expected)
    if not surfaces:
        return LabelScores(dice=overlap, nsd=None, hd95=None, **volumes)
    if SURFACE_BYTES * predicted.size > free_memory():
        return LabelScores(dice=overlap, nsd=None, hd95=None, note=TOO_LARGE, **volumes)
    nsd, hd95 = surface_scores(predicted, expected, spacing, tolerance_mm)
    return LabelScores(dice=overlap, nsd=nsd, hd95=hd95, **volumes)


def surface_scores(
    predicted: np.ndarray, expected: np.ndarray, spacing: Millimetres, tolerance_mm: float
) -> tuple[float, float]:
    """(NSD, HD95 in mm) of two non-empty masks (D, H, W)."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    # A rim of background, so that a mask that touches the scan's border has a surface there too.
    found, truth = (torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (predicted, expected))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes to itself
        nsd = compute_surface_dice(
            found, truth, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True
        )
        hd95 = compute_hausdorff_distance(found, truth, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)


def _mask(array: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """Where `array` holds one of the numbers."""
    return array == numbers[0] if len(numbers) == 1 else np.isin(array, numbers)


def _boxes(array: np.ndarray, numbers: Collection[int]) -> dict[int, tuple[slice, ...]]:
    """The bounding box of each number that occurs in `array`, by one pass over it."""
    from scipy.ndimage import find_objects

    positive = {number for number in numbers if number > 0}
    if not positive:
        return {}
    values = np.array(sorted(positive))
    if values[-1] > LARGEST_COUNTED:
        places = np.searchsorted(values, array).clip(max=len(values) - 1)
        array = np.where(values[places] == array, places + 1, 0)
    else:
        values, array = np.arange(1, values[-1] + 1), np.where(array > 0, array, 0)
    boxes = find_objects(array.astype(np.int32), max_label=len(values))
    found = dict(zip(values.tolist(), boxes, strict=True))
    return {number: box for number, box in found.items() if box is not None and number in positive}
