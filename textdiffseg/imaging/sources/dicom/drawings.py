"""Masks that DICOM stores as objects: segmentations (PS3.3, A.51) and structure sets of radiotherapy (A.19).

Both name the series on which they were drawn, and their structures. The structures of one object may overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from plans.errors import UserError, printable
from textdiffseg.extras import require
from textdiffseg.imaging.sources.dicom.elements import CLASS, Wanted, read_header
from textdiffseg.imaging.sources.dicom.files import DicomFile, is_slice
from textdiffseg.imaging.sources.dicom.outlines import filled
from textdiffseg.imaging.sources.dicom.segments import MALFORMED, drawn, frames_of
from textdiffseg.imaging.sources.streams import Damaged
from textdiffseg.imaging.volume import Geometry

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["DICOM-SEG", "RTSTRUCT"]
_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "DICOM-SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "DICOM-SEG",  # as a label map
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
MAX_STRUCTURES = 1000


@dataclass(frozen=True)
class Drawing:
    """A segmentation object or a structure set."""

    path: Path
    kind: Kind
    series: str | None  # UID of the series on which it was drawn
    names: dict[int, str]  # number -> name of each structure


@dataclass(frozen=True)
class StructureMask:
    """The mask of a structure on the grid of its scan."""

    value: int
    mask: np.ndarray  # (D, H, W), bool
    notes: tuple[str, ...] = ()  # for the user, on what was left out


def drawing_kind(path: Path) -> Kind | None:
    """The kind of a DICOM object, by its header; None for every other file. Needs no extra."""
    if not is_slice(path):
        return None
    source = DicomFile(path)
    try:
        with source.open() as file:
            found = read_header(file, source.size, Wanted((CLASS,))).elements.get(CLASS, b"")
    except (Damaged, OSError):
        return None
    return _KINDS.get(found.decode("ascii", "replace").strip(" \0")) if isinstance(found, bytes) else None


def read_drawing(path: Path) -> Drawing:
    """The names in a segmentation object or a structure set, without its masks. Raises `UserError`."""
    kind, dataset = drawing_kind(path), _dataset(path, masks=False)
    try:
        names, series = _structures(dataset, kind)
    except MALFORMED as error:
        raise _malformed(path, error) from None
    if not 0 < len(names) <= MAX_STRUCTURES:
        raise UserError(f"{path}: expected 1 to {MAX_STRUCTURES} structures, found {len(names)}. Leave the file out.")
    plain = {number: " ".join(printable(name).split()) or f"structure {number}" for number, name in names.items()}
    return Drawing(path, kind or "RTSTRUCT", series[0] if len(set(series)) == 1 else None, plain)


def _structures(dataset: "Dataset", kind: Kind | None) -> tuple[dict[int, str], list[str]]:
    """The names of the structures by number, and the UIDs of the series on which they were drawn."""
    if kind == "DICOM-SEG":
        items = dataset.get("SegmentSequence") or []
        names = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in items}
        names.pop(0, None)  # of a label map: the background
        series = [str(series_item.SeriesInstanceUID) for series_item in dataset.get("ReferencedSeriesSequence") or []]
    else:
        items = dataset.get("StructureSetROISequence") or []
        names = {int(item.ROINumber): str(item.get("ROIName", "")) for item in items}
        series = [
            str(one.SeriesInstanceUID)
            for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
            for study in frame.get("RTReferencedStudySequence") or []
            for one in study.get("RTReferencedSeriesSequence") or []
        ]
    return names, series


def _malformed(path: Path, error: Exception) -> UserError:
    field = getattr(error, "name", None) or ""  # of an AttributeError: what the object lacks
    detail = f" ({field})" if field[:1].isupper() else ""
    return UserError(f"{path}: a part is missing or malformed{detail}. Export it again.")


def masks_of(drawing: Drawing, numbers: dict[int, int], geometry: Geometry) -> Iterator[StructureMask]:
    """The masks of some structures.

    Args:
        drawing: the object.
        numbers: number of a structure -> value.
        geometry: of the scan.

    Raises:
        UserError: the object is damaged, or a structure does not fit the slices of the scan.
    """
    try:
        yield from _masks_of(drawing, numbers, geometry)
    except MALFORMED as error:
        raise _malformed(drawing.path, error) from None


def _masks_of(drawing: Drawing, numbers: dict[int, int], geometry: Geometry) -> Iterator[StructureMask]:
    dataset = _dataset(drawing.path, masks=True)
    if drawing.kind == "DICOM-SEG":
        frames = frames_of(dataset, drawing.path)
        for number, value in numbers.items():
            yield StructureMask(value, drawn(frames, number, drawing.names[number], geometry, drawing.path))
        return
    contours: dict[int, list[Dataset]] = {}
    for structure in dataset.get("ROIContourSequence") or []:
        contours.setdefault(int(structure.ReferencedROINumber), []).extend(structure.get("ContourSequence") or [])
    for number, value in numbers.items():
        mask, notes = filled(contours.get(number, ()), drawing.names[number], geometry, drawing.path)
        yield StructureMask(value, mask, notes)


def _dataset(path: Path, masks: bool) -> "Dataset":
    require("dicom", f"{path.name}: reading this mask", "pydicom")
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from textdiffseg.imaging.sources.dicom.quiet import quiet_pydicom

    try:
        with quiet_pydicom():
            return dcmread(path, force=True, stop_before_pixels=not masks)  # without a preamble, too
    except (InvalidDicomError, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged or cut off ({type(error).__name__}). Copy it again.") from None
