"""One scan on the plan's grid to what is known of it: mask, probabilities, uncertainty, volumes.

The mask is made with the setting that suits masks best, often one step from pure noise. Uncertainty takes samples,
which are predicted beside it, so that asking for it changes no mask. Where one setting serves both, as without
diffusion, one prediction does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from plans.plan import Plan
from textdiffseg.folds.calibration import Applied, widen
from textdiffseg.inference.predictor import Prediction, Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.uncertainty import VolumeInterval, interval, label_volumes
from textdiffseg.preprocessing.case import TransformRecord
from textdiffseg.readout import Readout

WindowProgress = Callable[[float, float], None]  # called with (done, of), in groups of windows


@dataclass(frozen=True)
class Calibrated:
    """A predictor, and what its predictions are calibrated with.

    Where one serves both masks and uncertainty, it is the same object for both.
    """

    predictor: Predictor
    calibration: Applied = field(default_factory=Applied)


@dataclass(frozen=True)
class Distribution:
    """What samples and folds say of one scan, on the plan's grid."""

    maps: dict[str, Tensor]  # name -> (D, H, W) bits
    volumes: np.ndarray  # (F, S, 1 + Q) voxels that each class writes
    widening: float  # of intervals


@dataclass(frozen=True)
class ScanResult:
    """What is known of one scan."""

    slots: np.ndarray  # (D, H, W) on the scan's own grid: the mask
    probabilities: Tensor  # (1 + Q, D, H, W) on the plan's grid, calibrated
    distribution: Distribution | None  # None: not asked for


def examine(
    image: Tensor,
    transform: TransformRecord,
    selection: Selection,
    masks: Calibrated,
    samples: Calibrated | None = None,
    progress: WindowProgress | None = None,
) -> ScanResult:
    """Segment image (C, D, H, W) on the plan's grid. `samples` measure uncertainty where it was requested.

    They are let go of before the mask is predicted, so that the peak of memory is that of one prediction.
    """
    readout, distribution, queries, answers = masks.predictor.readout, None, selection.queries, len(selection.names)
    if samples is not None and samples is not masks:
        costs = samples.predictor.settings.passes, masks.predictor.settings.passes
        first = costs[0] / sum(costs)
        follow = _part(progress, 0, first)
        drawn = samples.predictor.predict_image(image, queries, True, answers, progress=follow)
        _temper(drawn, readout, samples.calibration)
        distribution = _distribution(drawn.of(answers, readout), readout, samples.calibration)
        progress = _part(progress, first, 1 - first)
        del drawn
    prediction = masks.predictor.predict_image(image, queries, samples is masks, answers, progress=progress)
    slots = readout.restore(prediction.probabilities.numpy(), transform)
    slots[slots > answers] = 0  # a rival's
    _temper(prediction, readout, masks.calibration)  # after the mask, which it is not to change
    prediction = prediction.of(answers, readout)
    if samples is masks:
        distribution = _distribution(prediction, readout, samples.calibration)
    return ScanResult(slots, prediction.probabilities, distribution)


def _part(progress: WindowProgress | None, before: float, share: float) -> WindowProgress | None:
    """The progress of one of two passes over the same windows, which takes `share` of the time after `before`."""
    return progress and (lambda done, total: progress(total * before + share * done, total))


def _temper(prediction: Prediction, readout: Readout, calibration: Applied) -> None:
    """In place, since memory is short."""
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
    """The volume of each mask, and its 90% interval, widened by what validation taught, where samples were drawn.

    An interval always holds the mask's own volume, which need not be near that of any sample.
    """
    millilitres = float(np.prod(transform.geometry.spacing)) / 1000
    of_plan = millilitres * float(np.prod(transform.cropped_shape)) / float(np.prod(transform.shape))
    classes, numbers, distribution = 1 + len(selection.names), selection.numbers, result.distribution
    planes = [np.bincount(plane.ravel(), minlength=classes) for plane in result.slots]  # casts a plane at a time
    volumes = label_volumes(np.sum(planes, axis=0), plan, numbers) * millilitres
    drawn = None if distribution is None else label_volumes(distribution.volumes, plan, numbers) * of_plan
    for place, (name, volume) in enumerate(zip(selection.names, volumes.tolist(), strict=True)):
        low, high = None, None
        if distribution is not None and drawn is not None:
            low, high = _interval_around(volume, drawn[..., place], distribution.widening)
        yield VolumeInterval(label=name, volume_ml=volume, low_ml=low, high_ml=high)


def _interval_around(volume: float, drawn: np.ndarray, widening: float) -> tuple[float, float]:
    """The interval of the `drawn` volumes, widened, and then as far as it takes to hold `volume`."""
    low, high = widen(np.array(interval(drawn)), widening).tolist()
    return min(low, volume), max(high, volume)
