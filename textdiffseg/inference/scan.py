"""The segmentation of a scan on the plan's grid: mask, probabilities, uncertainty, volumes.

Masks use the settings that are best for masks, in preset `default` a single pass. Uncertainty uses several samples.
They are predicted separately, so that `uncertainty` does not change the mask. If the settings are equal, as without
diffusion, one prediction gives both. Volumes and the expected Dice come from the prediction of the mask.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from plans.geometry import triple
from textdiffseg.ahead import ahead
from textdiffseg.folds.calibration import AppliedCalibration
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.inference.maps import Maps, probability_map
from textdiffseg.inference.postprocessing import postprocess
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.region import Region
from textdiffseg.inference.volumes import SlabVoxelSums, VoxelSums
from textdiffseg.inference.windows import Slab
from textdiffseg.preprocessing.case import TransformRecord
from textdiffseg.progress import Cancel, OnProgress, StepProgress, share_of, step_reporter
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout


@dataclass(frozen=True)
class CalibratedPredictor:
    """A predictor, the calibration of its predictions, and the postprocessing of its masks by label name."""

    predictor: Predictor
    calibration: AppliedCalibration = field(default_factory=AppliedCalibration)
    postprocessing: Mapping[str, Postprocessing] = field(default_factory=dict)

    def near(self, region: Region) -> "CalibratedPredictor":
        """The same for one scan: only windows that touch a region of the scan are computed."""
        return replace(self, predictor=self.predictor.near(region))


@dataclass(frozen=True)
class ScanResult:
    """The segmentation of one scan."""

    slots: np.ndarray  # (D, H, W) the mask on the scan's own grid; 0 is background, q + 1 is answer q
    sums: VoxelSums | None  # of the answers; None: nothing was fitted for the setting of the mask
    maps: Mapping[str, np.ndarray]  # (D, H, W) on the plan's grid: calibrated probabilities, uncertainty in bits

    @cached_property
    def voxels(self) -> np.ndarray:
        """The voxels of each class of the mask, from 0 to the largest one. They are counted once, plane by plane."""
        classes = 1 + int(self.slots.max(initial=0))
        planes = (np.bincount(plane.ravel(), minlength=classes) for plane in self.slots)  # to save memory
        return sum(planes, np.zeros(classes, np.int64))


def segment_image(
    image: Tensor,
    transform: TransformRecord,
    selection: Selection,
    mask_predictor: CalibratedPredictor,
    uncertainty_predictor: CalibratedPredictor | None = None,
    mask_uncertainty: bool = False,
    progress: StepProgress | None = None,
    probabilities: bool = False,
    folder: Path | None = None,
) -> ScanResult:
    """The segmentation of an image (C, D, H, W) on the plan's grid. It is computed slab by slab.

    Args:
        image: (C, D, H, W) on the plan's grid.
        transform: from the scan's grid to the plan's.
        selection: the queries and answers.
        mask_predictor: predicts the mask and the probabilities.
        uncertainty_predictor: predicts uncertainty separately; None: no separate prediction.
        mask_uncertainty: the prediction of the mask gives uncertainty, too.
        progress: called with (groups of windows done, all groups).
        probabilities: keep a map of each answer's probabilities.
        folder: for the maps; None: they stay in memory.
    """
    readout, queries, n_answers = mask_predictor.predictor.readout, selection.queries, len(selection.names)
    maps = Maps(triple(image.shape[1:]), folder)
    if uncertainty_predictor is not None:
        passes = uncertainty_predictor.predictor.settings.passes
        first = passes / (passes + mask_predictor.predictor.settings.passes)
        sampling = share_of(progress, 0, first)
        for slab in predicted_slabs(uncertainty_predictor.predictor, image, queries, True, n_answers, sampling):
            _add_uncertainty(maps, _tempered(slab, readout, uncertainty_predictor.calibration, n_answers), readout)
        progress = share_of(progress, first, 1 - first)
    restoring = readout.restoring(transform)
    sums = SlabVoxelSums(readout, n_answers) if mask_predictor.calibration != AppliedCalibration() else None
    for slab in predicted_slabs(mask_predictor.predictor, image, queries, mask_uncertainty, n_answers, progress):
        restoring.add(readout.classes_to_compare(slab.prediction.probabilities.numpy()))
        if sums is not None:
            sums.add(slab.prediction.probabilities)
        if not (probabilities or mask_uncertainty):
            continue
        slab = _tempered(slab, readout, mask_predictor.calibration, n_answers)  # after the mask, which must not change
        if probabilities:
            for name, p in zip(selection.names, slab.prediction.probabilities[1:].numpy(), strict=True):
                maps.add(probability_map(selection.names, name), slab.first, p)
        if mask_uncertainty:
            _add_uncertainty(maps, slab, readout)
    slots = _postprocessed(restoring.finish(), mask_predictor, queries, transform)
    slots[slots > n_answers] = 0  # rivals
    return ScanResult(slots, None if sums is None else sums.finish(), maps.finish())


def _postprocessed(
    slots: np.ndarray, mask_predictor: CalibratedPredictor, queries: Queries, transform: TransformRecord
) -> np.ndarray:
    """The mask (D, H, W) on the scan's own grid, postprocessed in place. Voxels of rivals are not background yet."""
    if mask_predictor.postprocessing:
        numbers, millilitres = queries.labels[0].tolist(), transform.geometry.voxel_ml
        postprocess(slots, mask_predictor.predictor.plan, numbers, mask_predictor.postprocessing, millilitres)
    return slots


def predicted_slabs(
    predictor: Predictor,
    image: Tensor,
    queries: Queries,
    uncertainty: bool = False,
    n_answers: int | None = None,
    progress: StepProgress | None = None,
) -> Iterator[Slab]:
    """The slabs of a prediction. On a GPU, the next one is computed while one is used."""
    slabs = predictor.predict_slabs(image, queries, uncertainty, n_answers, progress=progress)
    return ahead(slabs, predictor.device.type != "cpu")


def _tempered(slab: Slab, readout: Readout, calibration: AppliedCalibration, n_answers: int) -> Slab:
    """The slab with temperature scaling, which is applied in place, and with background and answers alone."""
    if calibration.temperature is not None:
        readout.temper(slab.prediction.probabilities.numpy(), calibration.temperature)
    return replace(slab, prediction=slab.prediction.keep_answers(n_answers, readout))


def _add_uncertainty(maps: Maps, slab: Slab, readout: Readout) -> None:
    prediction = slab.prediction
    if prediction.between_samples is None or prediction.between_folds is None:
        raise ValueError("this prediction was made without uncertainty; expected one made with it")
    maps.add("uncertainty/entropy", slab.first, readout.entropy(prediction.probabilities, 0).numpy())
    maps.add("uncertainty/between_samples", slab.first, prediction.between_samples.numpy())
    maps.add("uncertainty/between_folds", slab.first, prediction.between_folds.numpy())


def window_reporter(progress: OnProgress, cancel: Cancel, detail: str = "") -> StepProgress:
    """A callback that reports each group of windows. It raises `Cancelled` if `cancel` returns True."""
    return step_reporter(progress, cancel, "Predict", "window", "The prediction was stopped.", detail)
