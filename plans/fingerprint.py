"""The fingerprint of a data set: each case's geometry, intensities and labelled structures, before planning.

Shapes and spacings are in the canonical orientation, axis order (D, H, W) = (z, y, x), spacings in mm.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from plans.errors import listed
from plans.geometry import Millimetres, Shape, Spacing, Triple, resampled_shape, triple
from plans.records import Note, Record

THICKNESS_PERCENTILE = 10  # over cases; a single thin or cut structure does not decide
LABELS_OUTSIDE_CROP = (
    "Labels lie outside the part of the scan that is kept: the body in CT, else the voxels that are not 0. So the crop "
    "was extended to them. A prediction has no labels and may miss such parts. Check these labels."
)


class LabelFingerprint(Record):
    """Measurements of one label in one case."""

    label: int = Field(gt=0, le=32767)  # label number 1..N
    voxels: int = Field(gt=0)
    volume_mm3: float = Field(gt=0)
    thickness_mm: float = Field(gt=0)  # twice the 90th percentile of the distance to the structure's surface
    extent_mm: Millimetres  # size of the bounding box


class CaseFingerprint(Record):
    """Measurements of one case, before and after cropping. Each case has its own file."""

    version: Literal[1] = 1
    case: str
    shape: Shape
    spacing: Spacing
    cropped_shape: Shape
    intensities: tuple[tuple[float, ...], ...]  # per channel, a random sample of foreground voxels
    labels: tuple[LabelFingerprint, ...] = ()  # labels that have voxels in this case
    content_hash: str
    notes: tuple[Note, ...] = ()  # sentences for the user, e.g. on the orientation of the files

    def shape_at(self, spacing: Millimetres) -> Triple:
        """The shape of the cropped case, resampled to `spacing`."""
        return resampled_shape(self.cropped_shape, self.spacing, spacing)


class Fingerprint(Record):
    """The fingerprints of all training cases of a data set."""

    dataset: str  # folder name
    cases: tuple[CaseFingerprint, ...] = Field(min_length=1)

    def spacings(self) -> np.ndarray:
        """The spacings of all cases (cases, 3) in mm."""
        return np.array([case.spacing for case in self.cases], dtype=float)

    def cropped_shapes(self) -> np.ndarray:
        """The cropped shapes of all cases (cases, 3), in voxels of their own grids."""
        return np.array([case.cropped_shape for case in self.cases], dtype=float)

    def median_shape_at(self, spacing: Millimetres) -> Triple:
        """The median shape of the cropped cases, resampled to `spacing`."""
        median = np.median([case.shape_at(spacing) for case in self.cases], axis=0)
        return triple(max(1, int(size)) for size in median)

    def cropped_share(self) -> float:
        """The median share of voxels that cropping leaves."""
        return float(np.median([np.prod(case.cropped_shape) / np.prod(case.shape) for case in self.cases]))

    def extended_crops(self) -> int:
        """The number of cases whose crop was extended to labels outside it."""
        return sum(LABELS_OUTSIDE_CROP in case.notes for case in self.cases)

    def notes(self) -> tuple[str, ...]:
        """Notes on cases with the same files, and the notes of all cases. Each lists the cases that it applies to."""
        cases_by_note: dict[str, list[str]] = {}
        for case in self.cases:
            for note in case.notes:
                cases_by_note.setdefault(note, []).append(case.case)
        by_hash: dict[str, list[str]] = {}
        for case in self.cases:
            by_hash.setdefault(case.content_hash, []).append(case.case)
        twice = tuple(
            f"{listed(cases)} have the same files: a fold may train and validate on one scan. Keep one of them."
            for cases in by_hash.values()
            if len(cases) > 1
        )
        return twice + tuple(
            f"{note} This applies to {len(cases)} of {len(self.cases)} cases: {listed(cases)}."
            for note, cases in cases_by_note.items()
        )

    def intensities(self, channel: int) -> np.ndarray:
        """The foreground intensities of one channel over all cases; empty if no case has foreground."""
        samples = [case.intensities[channel] for case in self.cases if case.intensities]
        return np.concatenate([np.asarray(sample, dtype=float) for sample in samples]) if samples else np.array([])

    def thickness_mm(self) -> dict[int, float]:
        """The 10th percentile over cases of each label's thickness in mm. Labels without voxels are left out."""
        by_label: dict[int, list[float]] = {}
        for case in self.cases:
            for label in case.labels:
                by_label.setdefault(label.label, []).append(label.thickness_mm)
        return {label: float(np.percentile(values, THICKNESS_PERCENTILE)) for label, values in sorted(by_label.items())}
