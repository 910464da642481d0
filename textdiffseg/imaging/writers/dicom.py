"""DICOM outputs of a mask, on the slices of its scan. They carry the patient and the study of the scan."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import split_ending
from plans.layout import DICOM_SEG, RTSTRUCT, Conversion
from textdiffseg.imaging.volume import Geometry


def check_source(scan: Path, option: str, series: str | None = None, kind: Conversion | None = None) -> None:
    """Raise `UserError` if a DICOM output cannot be made of a scan, or of a series of it.

    Args:
        scan: the files of the scan.
        option: what needs the output, in messages.
        series: UID of the scan's series; None: the largest one.
        kind: of the output; None: of any kind.
    """
    from textdiffseg.imaging.sources.dicom import slice_files
    from textdiffseg.imaging.sources.dicom.quiet import quiet_pydicom
    from textdiffseg.imaging.writers.dicom_seg import check_segmentation
    from textdiffseg.imaging.writers.rtstruct import check_structures
    from textdiffseg.imaging.writers.source_slices import read_slices

    if split_ending(scan.name)[1] and scan.is_file():
        raise UserError(f"{scan}: {option} needs a DICOM scan. Leave it out, or give the folder of DICOM slices.")
    with slice_files(scan, series) as files, quiet_pydicom():
        source = read_slices(files)
        if kind != DICOM_SEG:
            check_structures(source)
        if kind != RTSTRUCT:
            check_segmentation(source)


def write_dicom(
    paths: Mapping[Conversion, Path],
    labels: np.ndarray,
    geometry: Geometry,
    structures: Mapping[str, Collection[int]],
    scan: Path,
    version: str,
    series: str | None = None,
) -> None:
    """Write a mask as DICOM-SEG, RTSTRUCT, or both. If one of them fails, the other one is still written.

    Args:
        paths: of the files, by kind.
        labels: the value of each voxel (D, H, W).
        geometry: of `labels`.
        structures: the values of each label, by name. Labels may overlap.
        scan: the DICOM scan of the mask.
        version: of TextDiffSeg.
        series: UID of the scan's series; None: the largest one.

    Raises:
        UserError: the scan is not DICOM, or its headers do not fit.
    """
    from textdiffseg.imaging.sources.dicom import slice_files
    from textdiffseg.imaging.sources.dicom.quiet import quiet_pydicom
    from textdiffseg.imaging.writers.dicom_seg import write_segmentation
    from textdiffseg.imaging.writers.rtstruct import write_structures
    from textdiffseg.imaging.writers.source_slices import read_slices

    with quiet_pydicom():
        with slice_files(scan, series) as files:
            source = read_slices(files)
        placed = source.place(labels, geometry)
        faults = list[str]()
        for kind, path in paths.items():
            write = write_segmentation if kind == DICOM_SEG else write_structures
            try:
                write(path, placed, structures, source, version)
            except UserError as error:
                faults += error.lines
        if faults:
            raise UserError(*faults)
