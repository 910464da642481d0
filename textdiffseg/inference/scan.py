"""The segmentation of a scan on the plan's grid: mask, probabilities, uncertainty, volumes.

Masks use the settings that are best for masks, often one step from pure noise. Uncertainty uses several samples. They
are predicted separately, so that `uncertainty` does not change the mask. If the settings are equal, as without
diffusion, one prediction gives both. Volumes and the expected Dice come from the prediction of the mask.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from plans.plan import Plan
from textdiffseg.folds.calibration import Applied, widen
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.volumes import VolumeInterval, VoxelSums, sum_voxels
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
class ScanResult:
    """The segmentation of one scan."""

    slots: np.ndarray  # (D, H, W) the mask on the scan's own grid; 0 is background, q + 1 is answer q
    probabilities: Tensor  # (1 + Q, D, H, W) on the plan's grid, calibrated
    sums: VoxelSums | None  # of the answers; None: nothing was fitted for the setting of the mask
    maps: dict[str, Tensor]  # of uncertainty: name -> (D, H, W) bits on the plan's grid; empty: not requested


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
    readout, queries, answers = masks.predictor.readout, selection.queries, len(selection.names)
    maps: dict[str, Tensor] = {}
    if samples is not None and samples is not masks:
        costs = samples.predictor.settings.passes, masks.predictor.settings.passes
        first = costs[0] / sum(costs)
        follow = _part(progress, 0, first)
        drawn = samples.predictor.predict_image(image, queries, True, answers, progress=follow)
        _temper(drawn, readout, samples.calibration)
        maps = _maps(drawn.of(answers, readout), readout)
        progress = _part(progress, first, 1 - first)
        del drawn
    prediction = masks.predictor.predict_image(image, queries, samples is masks, answers, progress=progress)
    slots = readout.restore(prediction.probabilities.numpy(), transform)
    slots[slots > answers] = 0  # rivals
    sums = sum_voxels(prediction.probabilities, readout, answers) if masks.calibration != Applied() else None
    _temper(prediction, readout, masks.calibration)  # after the mask, which must not change
    prediction = prediction.of(answers, readout)
    if samples is masks:
        maps = _maps(prediction, readout)
    return ScanResult(slots, prediction.probabilities, sums, maps)


def _part(progress: WindowProgress | None, before: float, share: float) -> WindowProgress | None:
    """The progress of one of two passes. It starts at the fraction `before` and takes the fraction `share`."""
    return progress and (lambda done, total: progress(total * before + share * done, total))


def _temper(prediction: Prediction, readout: Readout, calibration: Applied) -> None:
    """Apply temperature scaling in place, which saves memory."""
    if calibration.temperature is not None:
        readout.temper(prediction.probabilities.numpy(), calibration.temperature)


def _maps(prediction: Prediction, readout: Readout) -> dict[str, Tensor]:
    between_samples, between_folds = prediction.between_samples, prediction.between_folds
    if between_samples is None or between_folds is None:
        raise ValueError("this prediction was made without uncertainty; expected one made with it")
    return {
        "entropy": readout.entropy(prediction.probabilities, 0),
        "between_samples": between_samples,
        "between_folds": between_folds,
    }


def volumes_of(
    result: ScanResult, selection: Selection, plan: Plan, transform: TransformRecord, calibration: Applied
) -> Iterator[VolumeInterval]:
    """The volume of each answer in ml, with its 90% interval if a factor was fitted for the setting of the mask.

    The interval is extended to contain the volume of the mask, which may lie outside it. If labels overlap, a label
    contains its own voxels and those of every answer that writes one of its values.
    """
    millilitres = float(np.prod(transform.geometry.spacing)) / 1000
    plan_millilitres = millilitres * float(np.prod(transform.cropped_shape)) / float(np.prod(transform.shape))
    classes, numbers, factor = 1 + len(selection.names), selection.numbers, calibration.widening
    planes = [np.bincount(plane.ravel(), minlength=classes) for plane in result.slots]  # plane by plane, to save memory
    voxels = np.sum(planes, axis=0)
    intervals: list[tuple[float, float] | None] = [None] * len(selection.names)
    if result.sums is not None and factor is not None:
        found = result.sums.interval(calibration.temperature or 1.0) * plan_millilitres
        intervals = [(low, high) for low, high in widen(found, factor).tolist()]
    for slot, (name, interval) in enumerate(zip(selection.names, intervals, strict=True), start=1):
        volume = float(voxels[_slots_within(plan, numbers, slot)].sum()) * millilitres
        low, high = (None, None) if interval is None else (min(interval[0], volume), max(interval[1], volume))
        yield VolumeInterval(label=name, volume_ml=volume, low_ml=low, high_ml=high)


def _slots_within(plan: Plan, numbers: Sequence[int], slot: int) -> list[int]:
    """The slots whose voxels belong to the label of `slot`.

    A forced prompt has a number above the label numbers. It only has its own slot.
    """
    labels, number = len(plan.labels), numbers[slot - 1]
    own_values = plan.parts[number - 1] if number <= labels else ()
    return [
        other
        for other, other_number in enumerate(numbers, start=1)
        if other == slot or (other_number <= labels and plan.written_numbers[other_number - 1] in own_values)
    ]


def expected_dice_of(result: ScanResult, selection: Selection, plan: Plan, calibration: Applied) -> ExpectedDice | None:
    """The expected Dice of the mask by answer, and their mean. None: no curve was fitted for the setting of the mask.

    Two kinds of answers have none: phrases that the model was not trained with, and labels whose mask is empty and that
    a validation case lacks.
    """
    curve = calibration.expected_dice
    if curve is None or result.sums is None:
        return None
    labels: dict[str, float] = {}
    values, voxels = curve.expected(result.sums.soft_dice).tolist(), result.sums.voxels.tolist()
    for name, number, value, size in zip(selection.names, selection.numbers, values, voxels, strict=True):
        if number > len(plan.labels) or (not size and plan.labels[number - 1].name in curve.may_be_absent):
            continue
        labels[name] = value
    mean = float(np.mean(list(labels.values()))) if labels else None
    return ExpectedDice(mean=mean, labels=labels, threshold=curve.threshold)


def follow(progress: OnProgress, cancel: Cancel, detail: str = "") -> WindowProgress:
    """A callback that reports each group of windows. It raises `Cancelled` if `cancel` returns True."""

    def after(done: float, total: float) -> None:
        progress(ProgressEvent("Predict", done, total, "window", detail))
        if cancel():
            raise Cancelled("The prediction was stopped.")

    return after
