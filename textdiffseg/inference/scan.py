"""The segmentation of a scan on the plan's grid: mask, probabilities, uncertainty, volumes.

Masks use the settings that are best for masks, in preset `default` a single pass. Uncertainty uses several samples.
They are predicted separately, so that `uncertainty` does not change the mask. If the settings are equal, as without
diffusion, one prediction gives both. Volumes and the expected Dice come from the prediction of the mask.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from textdiffseg.folds.calibration import Applied
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.volumes import VoxelSums, sum_voxels
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
        follow = part_of(progress, 0, first)
        drawn = samples.predictor.predict_image(image, queries, True, answers, progress=follow)
        _temper(drawn, readout, samples.calibration)
        maps = _maps(drawn.of(answers, readout), readout)
        progress = part_of(progress, first, 1 - first)
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


def part_of(progress: WindowProgress | None, before: float, share: float) -> WindowProgress | None:
    """The progress of one of several passes. It starts at the fraction `before` and takes the fraction `share`."""
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


def follow(progress: OnProgress, cancel: Cancel, detail: str = "") -> WindowProgress:
    """A callback that reports each group of windows. It raises `Cancelled` if `cancel` returns True."""

    def after(done: float, total: float) -> None:
        progress(ProgressEvent("Predict", done, total, "window", detail))
        if cancel():
            raise Cancelled("The prediction was stopped.")

    return after
