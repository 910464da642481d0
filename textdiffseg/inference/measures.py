"""The volumes of a segmented scan in ml, with intervals, and its expected Dice.

Both come from the sums over the mask's prediction (`inference.volumes`) and the calibration of its setting.
"""

from collections.abc import Iterator

import numpy as np

from plans.plan import Plan
from textdiffseg.folds.calibration import AppliedCalibration, widen
from textdiffseg.folds.expected_dice import ExpectedDice
from textdiffseg.inference.prompting import Selection, slots_of_all
from textdiffseg.inference.scan import ScanResult
from textdiffseg.inference.volumes import VolumeInterval
from textdiffseg.preprocessing.case import TransformRecord


def volumes_of(
    result: ScanResult, selection: Selection, plan: Plan, transform: TransformRecord, calibration: AppliedCalibration
) -> Iterator[VolumeInterval]:
    """The volume of each answer in ml, with its 90% interval if a factor was fitted for the setting of the mask.

    The interval is extended to contain the volume of the mask, which may lie outside it. If labels overlap, a label
    contains its own voxels and those of every answer that writes one of its values.
    """
    millilitres = transform.geometry.voxel_ml
    plan_millilitres = millilitres * float(np.prod(transform.cropped_shape)) / float(np.prod(transform.shape))
    classes, numbers, factor = 1 + len(selection.names), selection.numbers, calibration.widening
    voxels = np.zeros(classes, np.int64)
    voxels[: len(result.voxels)] = result.voxels
    intervals: list[tuple[float, float] | None] = [None] * len(selection.names)
    if result.sums is not None and factor is not None:
        narrow = result.sums.interval(calibration.temperature or 1.0) * plan_millilitres
        intervals = [(low, high) for low, high in widen(narrow, factor).tolist()]
    for name, slots, interval in zip(selection.names, slots_of_all(plan, numbers), intervals, strict=True):
        volume = float(voxels[slots].sum()) * millilitres
        low, high = (None, None) if interval is None else (min(interval[0], volume), max(interval[1], volume))
        yield VolumeInterval(label=name, volume_ml=volume, low_ml=low, high_ml=high)


def structures_of(plan: Plan, selection: Selection) -> dict[str, tuple[int, ...]]:
    """The values in a mask that belong to each answer, by name. If labels overlap, a label may have several."""
    members = slots_of_all(plan, selection.numbers)
    values = (tuple(selection.values[slot - 1] for slot in slots) for slots in members)
    return dict(zip(selection.names, values, strict=True))


def expected_dice_of(
    result: ScanResult, selection: Selection, plan: Plan, calibration: AppliedCalibration
) -> ExpectedDice | None:
    """The expected Dice of the mask by answer, and their mean. None: no curve was fitted for the setting of the mask.

    Two kinds of answers have none: phrases that the model was not trained with, and labels whose mask is empty and that
    a validation case lacks.
    """
    curve = calibration.expected_dice
    if curve is None or result.sums is None:
        return None
    labels: dict[str, float] = {}
    filled, numbers = {*np.flatnonzero(result.voxels).tolist()}, selection.numbers
    values = curve.expected(result.sums.soft_dice).tolist()
    members = slots_of_all(plan, numbers)
    for name, number, slots, value in zip(selection.names, numbers, members, values, strict=True):
        empty = filled.isdisjoint(slots)
        if number > len(plan.labels) or (empty and plan.labels[number - 1].name in curve.may_be_absent):
            continue
        labels[name] = value
    mean = float(np.mean(list(labels.values()))) if labels else None
    return ExpectedDice(mean=mean, labels=labels, threshold=curve.threshold if selection.is_of_all(plan) else None)
