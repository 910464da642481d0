"""Masks that DICOM stores as objects: segmentations (PS3.3, A.51) and structure sets of radiotherapy (A.19).

Both name the series on which they were drawn, and their structures. The structures of one object may overlap.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plans.errors import UserError, printable
from textdiffseg.extras import require
from textdiffseg.imaging.sources.dicom.elements import Wanted, read_header
from textdiffseg.imaging.sources.dicom.files import DicomFile, is_slice
from textdiffseg.imaging.sources.dicom.instances import CLASS
from textdiffseg.imaging.sources.streams import Damaged
from textdiffseg.imaging.volume import Geometry, describe

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["DICOM-SEG", "RTSTRUCT"]
_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "DICOM-SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "DICOM-SEG",  # as a label map
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
MAX_OFFSET_VOXELS = 0.25  # of a pixel or an outline from the nearest voxel of the scan
MAX_STRUCTURES = 1000
# pydicom decodes a value when it is read, so any access may find a damaged one.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError, struct.error)


@dataclass(frozen=True)
class Drawing:
    """A segmentation object or a structure set."""

    path: Path
    kind: Kind
    series: str | None  # UID of the series on which it was drawn
    names: dict[int, str]  # number -> name of each structure


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
    except _MALFORMED as error:
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
    return UserError(f"{path}: a part is missing or malformed ({error}). Export it again.")


def masks_of(drawing: Drawing, numbers: dict[int, int], geometry: Geometry) -> Iterator[tuple[int, np.ndarray]]:
    """The masks of some structures: their value, and a mask (D, H, W) on the scan's grid.

    Args:
        drawing: the object.
        numbers: number of a structure -> value.
        geometry: of the scan.

    Raises:
        UserError: the object is damaged, or it is not on the slices of the scan.
    """
    try:
        yield from _masks_of(drawing, numbers, geometry)
    except _MALFORMED as error:
        raise _malformed(drawing.path, error) from None


def _masks_of(drawing: Drawing, numbers: dict[int, int], geometry: Geometry) -> Iterator[tuple[int, np.ndarray]]:
    dataset = _dataset(drawing.path, masks=True)
    if drawing.kind == "RTSTRUCT":
        contours = {int(contour.ReferencedROINumber): contour for contour in dataset.get("ROIContourSequence") or []}
        for number, value in numbers.items():
            yield value, _filled(contours.get(number), geometry, drawing.path)
        return
    frames = list(_frames(dataset, drawing.path))
    for number, value in numbers.items():
        mask = np.zeros(geometry.shape, bool)
        for segment, pixels, plane in frames:
            own = pixels == number if segment is None else pixels if segment == number else None
            if own is not None:
                _draw_on_slice(own, plane, mask, geometry, drawing.path)
        yield value, mask


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


Plane = np.ndarray  # (4, 3): (row, column, 1) -> world LPS in mm


def _frames(dataset: "Dataset", path: Path) -> Iterator[tuple[int | None, np.ndarray, Plane]]:
    """Of each frame the segment (None: a label map of segments), the pixels, and the plane."""
    try:
        pixels = dataset.pixel_array
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{path}: its pixels cannot be read ({type(error).__name__}). Export it uncompressed."
        ) from None
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    label_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    if not label_map:
        pixels = pixels > float(dataset.get("MaximumFractionalValue", 1)) / 2
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        try:
            plane = _plane(own, shared)
            segment = (
                None if label_map else int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            )
        except _MALFORMED:
            raise UserError(f"{path}: a frame has no position or no segment. Export it again.") from None
        yield segment, frame, plane


def _group(own: Any, shared: Any, name: str) -> Any:
    return (own.get(name) or shared.get(name))[0]


def _plane(own: Any, shared: Any) -> Plane:
    orientation = np.array(_group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient, float)
    spacing = np.array(_group(own, shared, "PixelMeasuresSequence").PixelSpacing, float)
    plane = np.zeros((4, 3))
    plane[:3, 0], plane[:3, 1] = orientation[3:] * spacing[0], orientation[:3] * spacing[1]
    plane[:3, 2] = np.array(_group(own, shared, "PlanePositionSequence").ImagePositionPatient, float)
    plane[3, 2] = 1
    return plane


def _draw_on_slice(pixels: np.ndarray, plane: Plane, mask: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Add the pixels of a plane to a mask on the scan's grid. Both grids must have voxels of the same size and axes.

    A shift within the plane is rounded to whole voxels: a scan with a tilted gantry was resampled to a straight grid.
    """
    rows, columns = np.nonzero(pixels)
    if not len(rows):
        return
    steps = np.linalg.solve(geometry.affine, plane)  # (row, column, 1) -> index (d, h, w, 1)
    shift = steps[:3, 2] - np.rint(steps[:3, 2])
    positions = (steps @ np.stack([rows, columns, np.ones_like(rows)]))[:3] - shift[:, None]
    index = np.rint(positions).astype(int)
    lengths, through = np.linalg.norm(steps[:3, :2], axis=0), np.abs(steps[:3, :2]).max(axis=1).argmin()
    offset = max(np.abs(positions - index).max(), abs(shift[through]))
    if offset > MAX_OFFSET_VOXELS or np.abs(lengths - 1).max() > 0.01:
        raise UserError(
            f"{path}: its pixels are not those of the scan ({describe(geometry)}). Resample it to the scan, and save "
            "it as a label map."
        )
    inside = np.all((index >= 0) & (index < np.array(mask.shape)[:, None]), axis=0)
    mask[tuple(index[:, inside])] = True


def _filled(contours: Any, geometry: Geometry, path: Path) -> np.ndarray:
    """The mask (D, H, W) inside the closed outlines of a structure. An outline inside another one is a hole."""
    crossings = np.zeros((*geometry.shape[:2], geometry.shape[2] + 1), np.uint8)
    for contour in (contours.get("ContourSequence") or []) if contours is not None else []:
        if not str(contour.get("ContourGeometricType", "")).upper().startswith("CLOSED"):
            continue
        points = np.array(contour.get("ContourData") or (), float).reshape(-1, 3)
        if not len(points):
            continue
        homogeneous = np.column_stack([points, np.ones(len(points))])
        positions = np.linalg.solve(geometry.affine, homogeneous.T)[:3]
        slice_number = int(np.rint(positions[0].mean()))
        if np.abs(positions[0] - slice_number).max() > MAX_OFFSET_VOXELS:
            raise UserError(
                f"{path}: an outline is not on a slice of the scan ({describe(geometry)}). Give the scan on which it "
                "was drawn, as DICOM."
            )
        if 0 <= slice_number < geometry.shape[0]:
            _add_crossings(crossings[slice_number], positions[1], positions[2])
    return np.cumsum(crossings, axis=-1, dtype=np.uint8)[..., :-1] % 2 == 1


def _add_crossings(counts: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Count, per row of pixels, the first pixel behind each crossing of a closed polygon (even-odd rule).

    counts (rows, columns + 1): pixel (r, c) is inside if the sum of `counts[r, : c + 1]` is odd.
    """
    next_rows, next_columns = np.roll(rows, -1), np.roll(columns, -1)
    for start, end, left, right in zip(rows, next_rows, columns, next_columns, strict=True):
        low, high = (start, end) if start < end else (end, start)
        crossed = np.arange(max(0, int(np.ceil(low))), min(len(counts), int(np.ceil(high))))
        if len(crossed):
            at = left + (crossed - start) * (right - left) / (end - start)
            np.add.at(counts, (crossed, np.clip(np.ceil(at), 0, counts.shape[1] - 1).astype(int)), 1)
