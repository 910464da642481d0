"""The other forms of a mask: one file per label, DICOM-SEG and RTSTRUCT (`Conversion`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import DICOM, label_stems, split_ending
from plans.layout import DICOM_SEG, RTSTRUCT, SEPARATE, Conversion
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.dicom import check_source, write_dicom
from textdiffseg.imaging.writers.separate import write_separate


@dataclass(frozen=True)
class OtherForms:
    """The forms of one mask that are wanted. Each kind has a folder of its name beside the mask."""

    mask: Path  # the path of the mask
    kinds: tuple[Conversion, ...]
    structures: Mapping[str, tuple[int, ...]]  # the values of each label in the mask, by name; several for overlaps
    values: tuple[int, ...]  # one of each label; if two labels would get one file name, the value is added to it

    @property
    def separate(self) -> dict[Path, tuple[int, ...]]:
        """The values of each file with the mask of one label."""
        if SEPARATE not in self.kinds:
            return {}
        stem, ending = split_ending(self.mask.name)
        stems = label_stems(tuple(self.structures), self.values)
        folder = self.mask.parent / SEPARATE / stem
        return {
            folder / f"{label_stem}{ending}": values
            for label_stem, values in zip(stems, self.structures.values(), strict=True)
        }

    @property
    def dicom(self) -> dict[Conversion, Path]:
        """The DICOM files, by kind."""
        name = f"{split_ending(self.mask.name)[0]}{DICOM}"
        return {kind: self.mask.parent / kind / name for kind in (DICOM_SEG, RTSTRUCT) if kind in self.kinds}

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return *self.separate, *self.dicom.values()

    def check(self, scan: Path | None, series: str | None = None, prefix: str = "") -> None:
        """Raise `UserError` if a DICOM form is wanted and the scan is not DICOM, or its headers do not fit.

        The arguments are those of `write`. `prefix` stands before the kind in messages.
        """
        for kind in self.dicom:
            if scan is None:
                raise UserError(f"{prefix}{kind} needs a DICOM scan that was given as a path.")
            check_source(scan, f"{prefix}{kind}", series, kind)

    def write(
        self, labels: np.ndarray, geometry: Geometry, scan: Path | None, version: str, series: str | None = None
    ) -> None:
        """Write all files. `check` comes before it.

        Args:
            labels: the value of each voxel (D, H, W).
            geometry: of `labels`.
            scan: the file or folder of the scan; None: it was not read from one.
            version: of TextDiffSeg.
            series: UID of the DICOM series; None: the largest one.
        """
        write_separate(self.separate, labels, geometry)
        if self.dicom and scan is not None:
            write_dicom(self.dicom, labels, geometry, self.structures, scan, version, series)
