"""Predictions of validation cases with one setting, and the calibration that is fitted to them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from plans.plan import Plan
from textdiffseg.data.store import StoredCase
from textdiffseg.evaluation.calibration import SlabSample, brier_score, expected_calibration_error
from textdiffseg.folds.calibration import CalibrationFit, Widening, widen
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.volumes import VoxelSums
from textdiffseg.inference.windows import Slab
from textdiffseg.readout import readout_of
from textdiffseg.temperature import SampledVoxels
from textdiffseg.validation.expected_dice import MaskScoring, ScoredMask, fit_expected_dice
from textdiffseg.validation.fitting import (
    coverage,
    fit_temperature,
    fit_widening,
    half_temperatures,
    tempered_in_halves,
)

MIN_CASES = 4  # two per half in cross-fitting


class Evidence:
    """What a calibration is fitted to: sampled voxels, level sets, true volumes and Dice of predicted cases.

    All predictions have one setting. Cases without foreground are left out.
    """

    def __init__(self, plan: Plan, settings: PredictionSettings):
        self.plan, self.settings, self.readout = plan, settings, readout_of(plan)
        self.voxels: list[SampledVoxels] = []  # one per case
        self.sums: list[VoxelSums] = []  # of the cases whose volumes are known, like the three lists below
        self.scales: list[float] = []  # voxels of the file's grid per voxel of the plan's
        self.truths: list[np.ndarray] = []  # (L,) voxels of the file's grid; 0 if not known
        self.halves: list[int] = []  # 0 or 1: the half of the case in cross-fitting
        self.masks: list[ScoredMask] = []  # undegraded and degraded
        self.absent: set[int] = set()  # labels that are known to be absent in a case

    def passing(self, slabs: Iterable[Slab], case: StoredCase) -> Iterator[Slab]:
        """The same slabs. The case is added after the last one. Their slots are the known labels of the case."""
        record, spacing = case.record, self.plan.spacing
        self.absent |= {*record.known} - {*record.present}
        if not record.present:
            yield from slabs
            return
        scoring = MaskScoring(case, self.readout)
        classes = 1 + len(self.plan.labels)
        of_raters = [SlabSample(reference[...], spacing, classes) for reference in case.references]
        for slab in slabs:
            scoring.add(slab)
            for sample in of_raters:
                sample.add(slab.first, slab.prediction.probabilities.numpy(), (0, *record.known))
            yield slab
        index = len(self.voxels)
        voxels = [self.readout.calibration_voxels(sample.finish(), record.known) for sample in of_raters]
        self.voxels.append(joined(voxels))
        if mask := scoring.finish(index):
            self.masks.append(mask)
        volumes = true_volumes(case, self.plan)
        if volumes is None:
            return
        self.sums.append(scoring.sums)
        self.scales.append(float(np.prod(record.transform.cropped_shape) / np.prod(record.transform.shape)))
        self.truths.append(volumes)
        self.halves.append(index % 2)

    def add(self, slabs: Iterable[Slab], case: StoredCase) -> None:
        """Add a case from the slabs of its prediction."""
        for _ in self.passing(slabs, case):
            pass

    def add_degraded(self, index: int, slabs: Iterable[Slab], case: StoredCase) -> None:
        """Add the prediction of a degraded scan of the case that was added as number `index`."""
        scoring = MaskScoring(case, self.readout)
        for slab in slabs:
            scoring.add(slab)
        if mask := scoring.finish(index, degraded=True):
            self.masks.append(mask)

    def fit(self) -> CalibrationFit | None:
        """The calibration with its scores. None with fewer than `MIN_CASES` cases."""
        if len(self.voxels) < MIN_CASES:
            return None
        before, after = (scores(cases).mean(0) for cases in (self.voxels, tempered_in_halves(self.voxels)))
        temperature = fit_temperature(self.voxels)
        return CalibrationFit(
            steps=self.settings.steps,
            samples=self.settings.samples,
            mirroring=bool(self.settings.mirror_axes),
            cases=len(self.voxels),
            temperature=temperature,
            ece_before=before[0],
            ece_after=after[0],
            brier_before=before[1],
            brier_after=after[1],
            widening=self._widening(temperature),
            expected_dice=fit_expected_dice(self.masks, self.plan, sorted(self.absent)),
        )

    def intervals(self, temperature: float) -> np.ndarray:
        """The 90% intervals (cases, L, 2) from level sets, in voxels of the file's grid, not widened."""
        pairs = zip(self.sums, self.scales, strict=True)
        return np.stack([sums.interval(temperature) * scale for sums, scale in pairs])

    def intervals_in_halves(self) -> tuple[np.ndarray, list[float]]:
        """The widened intervals (cases, L, 2) of each half with temperature and factor of the other, and the factors.

        Entry h of the factors is fitted to half h. A half is every second case.
        """
        truths = np.stack(self.truths)
        halves = np.array(self.halves)
        widened = self.intervals(1.0)
        factors = []
        for half, temperature in enumerate(half_temperatures(self.voxels)):
            intervals = self.intervals(temperature)
            in_half = halves == half
            factors.append(fit_widening(intervals[in_half], truths[in_half]) or 1.0)
            widened[~in_half] = widen(intervals[~in_half], factors[-1])
        return widened, factors

    def _widening(self, temperature: float) -> Widening | None:
        if not self.sums:
            return None
        truths = np.stack(self.truths)
        factor = fit_widening(self.intervals(temperature), truths)
        if factor is None:
            return None
        return Widening(
            factor=factor,
            coverage_before=self.coverage(self.intervals(1.0)),
            coverage_after=self.coverage(self.intervals_in_halves()[0]),
        )

    def coverage(self, intervals: np.ndarray) -> dict[str, float]:
        """The share of true volumes inside their interval (cases, L, 2), by label. Absent structures are left out."""
        truths = np.stack(self.truths)
        shares = {}
        for number, label in enumerate(self.plan.labels):
            present = truths[:, number] > 0
            if present.any():
                shares[label.name] = coverage(intervals[present, number], truths[present, number])
        return shares


def true_volumes(case: StoredCase, plan: Plan) -> np.ndarray | None:
    """The volume of each label (L,) in voxels of the file's grid, 0 if not known. None if voxels are ignored.

    With several references it is their mean.
    """
    size = 1 + max(map(max, plan.value_numbers))
    counts = []
    for reference in range(case.record.references):
        original = case.original_labels(reference)
        if original.min(initial=0) < 0:
            return None
        counts.append(np.sum([np.bincount(plane.ravel(), minlength=size) for plane in original], axis=0))
    mean = np.mean(counts, axis=0)
    known = case.record.known
    volumes = [
        mean[list(numbers)].sum() * (number in known) for number, numbers in enumerate(plan.value_numbers, start=1)
    ]
    return np.array(volumes, dtype=np.float64)


def joined(voxels: Sequence[SampledVoxels]) -> SampledVoxels:
    """The voxels of all references of one case together."""
    return SampledVoxels(np.concatenate([v.p for v in voxels], axis=1), np.concatenate([v.truth for v in voxels]))


def scores(cases: Sequence[SampledVoxels]) -> np.ndarray:
    """The ECE and the Brier score of each case: (cases, 2)."""
    return np.array([(expected_calibration_error(c.p, c.truth), brier_score(c.p, c.truth)) for c in cases])
