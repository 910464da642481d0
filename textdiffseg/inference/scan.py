"""The segmentation of a scan on the plan's grid: mask, probabilities, uncertainty, volumes.

Masks use the settings that are best for masks, often one step from pure noise. Uncertainty uses several samples. They
are predicted separately, so that `uncertainty` does not change the mask. If the settings are equal, as without
diffusion, one prediction gives both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from plans.plan import Plan
from textdiffseg.folds.calibration import Applied, widen
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.uncertainty import VolumeInterval, interval, label_volumes
from textdiffseg.inference.windows import Prediction
from textdiffseg.preprocessing.case import TransformRecord
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent
from textdiffseg.readout import Readout

WindowProgress = Callable[[float, float], None]  # called with (done, total), in groups of windows


@dataclass(frozen=True)
class Calibrated:
    """A predictor and the calibration of its predictions.

    If one predictor serves masks and uncertainty, the same object is used for both.
    """

    predictor: Predictor
    calibration: Applied = field(default_factory=Applied)


@dataclass(frozen=True)
class Distribution:
    """The distribution over samples and folds for one scan, on the plan's grid."""

    maps: dict[str, Tensor]  # name -> (D, H, W) bits
    volumes: np.ndarray  # (F, S, 1 + Q) voxels that each class writes
    widening: float  # of intervals


@dataclass(frozen=True)
class ScanResult:
    """The segmentation of one scan."""

    slots: np.ndarray  # (D, H, W) the mask on the scan's own grid; 0 is background, q + 1 is answer q
    probabilities: Tensor  # (1 + Q, D, H, W) on the plan's grid, calibrated
    distribution: Distribution | None  # None: not requested


def examine(
    image: Tensor,
    transform: TransformRecord,
    selection: Selection,
    masks: Calibrated,
    samples: Calibrated | None = None,
    progress: WindowProgress | None = None,
) -> ScanResult:
    """The segmentation of an image (C, D, H, W) on the plan's grid.

    The samples are deleted before the mask is predicted. The memory peak is thus that of one prediction.

    Args:
        image: (C, D, H, W) on the plan's grid.
        transform: from the scan's grid to the plan's.
        selection: the queries and answers.
        masks: predicts the mask and the probabilities.
        samples: predicts uncertainty; None: not requested.
        progress: called with (groups of windows done, all groups).
    """
    readout, distribution, queries, answers = masks.predictor.readout, None, selection.queries, len(selection.names)
    if samples is not None and samples is not masks:
        costs = samples.predictor.settings.passes, masks.predictor.settings.passes
        first = costs[0] / sum(costs)
        follow = part_of(progress, 0, first)
        drawn = samples.predictor.predict_image(image, queries, True, answers, progress=follow)
        _temper(drawn, readout, samples.calibration)
        distribution = _distribution(drawn.of(answers, readout), readout, samples.calibration)
        progress = part_of(progress, first, 1 - first)
        del drawn
    prediction = masks.predictor.predict_image(image, queries, samples is masks, answers, progress=progress)
    slots = readout.restore(prediction.probabilities.numpy(), transform)
    slots[slots > answers] = 0  # rivals
    _temper(prediction, readout, masks.calibration)  # after the mask, which must not change
    prediction = prediction.of(answers, readout)
    if samples is masks:
        distribution = _distribution(prediction, readout, samples.calibration)
    return ScanResult(slots, prediction.probabilities, distribution)


def part_of(progress: WindowProgress | None, before: float, share: float) -> WindowProgress | None:
    """The progress of one of several passes. It starts at the fraction `before` and takes the fraction `share`."""
    return progress and (lambda done, total: progress(total * before + share * done, total))


def _temper(prediction: Prediction, readout: Readout, calibration: Applied) -> None:
    """Apply temperature scaling in place, which saves memory."""
    if calibration.temperature is not None:
        readout.temper(prediction.probabilities.numpy(), calibration.temperature)


def _distribution(prediction: Prediction, readout: Readout, calibration: Applied) -> Distribution:
    between_samples, between_folds = prediction.between_samples, prediction.between_folds
    if between_samples is None or between_folds is None or prediction.volumes is None:
        raise ValueError("this prediction was made without uncertainty; expected one made with it")
    maps = {
        "entropy": readout.entropy(prediction.probabilities, 0),
        "between_samples": between_samples,
        "between_folds": between_folds,
    }
    return Distribution(maps, prediction.volumes, calibration.widening or 1.0)


def volumes_of(
    result: ScanResult, selection: Selection, plan: Plan, transform: TransformRecord
) -> Iterator[VolumeInterval]:
    """The volume of each answer in ml, with its 90% interval if samples were drawn.

    The interval is widened by the factor of the calibration. It is extended to contain the volume of the mask, which
    may lie outside the volumes of all samples.
    """
    millilitres = float(np.prod(transform.geometry.spacing)) / 1000
    plan_millilitres = millilitres * float(np.prod(transform.cropped_shape)) / float(np.prod(transform.shape))
    classes, numbers, distribution = 1 + len(selection.names), selection.numbers, result.distribution
    planes = [np.bincount(plane.ravel(), minlength=classes) for plane in result.slots]  # plane by plane, to save memory
    volumes = label_volumes(np.sum(planes, axis=0), plan, numbers) * millilitres
    drawn = None if distribution is None else label_volumes(distribution.volumes, plan, numbers) * plan_millilitres
    for answer, (name, volume) in enumerate(zip(selection.names, volumes.tolist(), strict=True)):
        low, high = None, None
        if distribution is not None and drawn is not None:
            low, high = _interval_around(volume, drawn[..., answer], distribution.widening)
        yield VolumeInterval(label=name, volume_ml=volume, low_ml=low, high_ml=high)


def _interval_around(volume: float, drawn: np.ndarray, widening: float) -> tuple[float, float]:
    """The widened interval of the `drawn` volumes, extended to contain `volume`."""
    low, high = widen(np.array(interval(drawn)), widening).tolist()
    return min(low, volume), max(high, volume)


def follow(progress: OnProgress, cancel: Cancel, detail: str = "") -> WindowProgress:
    """A callback that reports each group of windows. It raises `Cancelled` if `cancel` returns True."""

    def after(done: float, total: float) -> None:
        progress(ProgressEvent("Predict", done, total, "window", detail))
        if cancel():
            raise Cancelled("The prediction was stopped.")

    return after
