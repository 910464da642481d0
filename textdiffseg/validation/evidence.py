"""Predictions of validation cases with one setting, and the calibration that is fitted to them."""

from collections.abc import Sequence

import numpy as np

from plans.plan import Plan
from textdiffseg.data.store import StoredCase
from textdiffseg.evaluation.calibration import brier_score, expected_calibration_error, sample_voxels
from textdiffseg.folds.calibration import Fit, Widening
from textdiffseg.folds.sampling import Settings
from textdiffseg.inference.uncertainty import coverage, interval, label_volumes
from textdiffseg.inference.windows import Prediction
from textdiffseg.readout import readout_of
from textdiffseg.temperature import SampledVoxels
from textdiffseg.validation.fitting import fit_temperature, fit_widening, tempered_in_halves, widened_in_halves

MIN_CASES = 4  # two per half in cross-fitting


class Evidence:
    """A sample of voxels, and the volumes, of predicted validation cases. All predictions have one setting."""

    def __init__(self, plan: Plan, settings: Settings):
        self.plan, self.settings, self.readout = plan, settings, readout_of(plan)
        self.voxels: list[SampledVoxels] = []
        self.intervals: list[np.ndarray] = []  # (L, 2) voxels of the file's grid
        self.truths: list[np.ndarray] = []  # (L,) voxels of the file's grid; 0 if not known

    def add(self, prediction: Prediction, case: StoredCase) -> None:
        """Add a case, unless it has no foreground. The classes of `prediction` are label numbers."""
        known = case.record.known
        if not case.record.present:
            return
        p, spacing = prediction.probabilities.numpy(), self.plan.spacing
        of_raters = [sample_voxels(p, reference[...], spacing) for reference in case.references]
        self.voxels.append(joined([self.readout.calibration_voxels(voxels, known) for voxels in of_raters]))
        if prediction.volumes is None:
            return
        transform = case.record.transform
        originals = [case.original_labels(place) for place in range(case.record.references)]
        if any(original.min(initial=0) < 0 for original in originals):  # with ignored voxels, no volume is known
            return
        scale = np.prod(transform.cropped_shape) / np.prod(
            transform.shape
        )  # voxels of the file's grid per voxel of the plan's
        drawn = label_volumes(prediction.volumes, self.plan, range(1, len(self.plan.labels) + 1)) * scale
        self.intervals.append(np.array([interval(of_label) for of_label in np.moveaxis(drawn, -1, 0)]))
        size = 1 + max(map(max, self.plan.parts))  # of several references, the mean volume is the true one
        counts = np.mean([np.bincount(original.ravel(), minlength=size) for original in originals], axis=0)
        volumes = [counts[list(part)].sum() * (number in known) for number, part in enumerate(self.plan.parts, start=1)]
        self.truths.append(np.array(volumes, dtype=np.float64))

    def fit(self) -> Fit | None:
        """The temperature and the widening, with their scores. None with fewer than `MIN_CASES` cases."""
        if len(self.voxels) < MIN_CASES:
            return None
        before, after = (scores(cases).mean(0) for cases in (self.voxels, tempered_in_halves(self.voxels)))
        return Fit(
            steps=self.settings.steps,
            samples=self.settings.samples,
            mirroring=bool(self.settings.mirror_axes),
            cases=len(self.voxels),
            temperature=fit_temperature(self.voxels),
            ece_before=before[0],
            ece_after=after[0],
            brier_before=before[1],
            brier_after=after[1],
            widening=self._widening(),
        )

    def _widening(self) -> Widening | None:
        if not self.intervals:
            return None
        intervals, truths = np.stack(self.intervals), np.stack(self.truths)
        factor = fit_widening(intervals, truths)
        if factor is None:
            return None
        return Widening(
            factor=factor,
            coverage_before=self.coverage(intervals, truths),
            coverage_after=self.coverage(widened_in_halves(intervals, truths), truths),
        )

    def coverage(self, intervals: np.ndarray, truths: np.ndarray) -> dict[str, float]:
        """The share of true volumes inside their interval, by label name. Absent structures are left out."""
        shares = {}
        for number, label in enumerate(self.plan.labels):
            present = truths[:, number] > 0
            if present.any():
                shares[label.name] = coverage(intervals[present, number], truths[present, number])
        return shares


def joined(voxels: Sequence[SampledVoxels]) -> SampledVoxels:
    """The voxels of all references of one case together."""
    return SampledVoxels(np.concatenate([v.p for v in voxels], axis=1), np.concatenate([v.truth for v in voxels]))


def scores(cases: Sequence[SampledVoxels]) -> np.ndarray:
    """The ECE and the Brier score of each case: (cases, 2)."""
    return np.array([(expected_calibration_error(c.p, c.truth), brier_score(c.p, c.truth)) for c in cases])
