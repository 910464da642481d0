"""Segmentation objects of DICOM (PS3.3, A.51): frames of pixels, each on a slice of the scan."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.grids import MAX_ORIGIN_MM
from textdiffseg.imaging.sources.dicom.coverage import MAX_OFFSET_VOXELS, DrawnSlice, distance_from_scan, refuse_unfit
from textdiffseg.imaging.sources.dicom.stack import plane_affine
from textdiffseg.imaging.volume import Geometry, describe

if TYPE_CHECKING:
    from pydicom import Dataset

# pydicom decodes a value when it is read, so any access may find a damaged one.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError, struct.error)


@dataclass(frozen=True)
class Frame:
    """A frame of a segmentation object."""

    segment: int | None  # None: the pixels are the numbers of their segments
    pixels: np.ndarray  # (rows, columns)
    plane: np.ndarray  # (4, 3): (row, column, 1) -> world LPS in mm


def frames_of(dataset: "Dataset", path: Path) -> list[Frame]:
    """The frames of a segmentation object. Raises `UserError` for a damaged one."""
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
    frames = []
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        try:
            plane = _plane(own, shared)
            segment = (
                None if label_map else int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            )
        except MALFORMED:
            raise UserError(f"{path}: a frame has no position or no segment. Export it again.") from None
        frames.append(Frame(segment, frame, plane))
    return frames


def _group(own: Any, shared: Any, name: str) -> Any:
    return (own.get(name) or shared.get(name))[0]


def _plane(own: Any, shared: Any) -> np.ndarray:
    plane = plane_affine(
        _group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient,
        _group(own, shared, "PixelMeasuresSequence").PixelSpacing,
        _group(own, shared, "PlanePositionSequence").ImagePositionPatient,
    )
    if not (np.abs(plane) <= MAX_ORIGIN_MM).all():  # also of NaN
        raise ValueError("not a place")
    return plane


def drawn(frames: Sequence[Frame], number: int, name: str, geometry: Geometry, path: Path) -> np.ndarray:
    """The mask (D, H, W) of a segment.

    Args:
        frames: of the segmentation object.
        number, name: of the segment.
        geometry: of the scan.
        path: of the object, for messages.

    Raises:
        UserError: the pixels of the segment do not fit the slices of the scan.
    """
    mask, slices = np.zeros(geometry.shape, bool), list[DrawnSlice]()
    for frame in frames:
        if frame.segment is None or frame.segment == number:
            pixels = frame.pixels == number if frame.segment is None else frame.pixels
            slices += _draw_on_slice(pixels, frame.plane, mask, geometry, path)
    refuse_unfit(slices, name, path)
    return mask


def _draw_on_slice(
    pixels: np.ndarray, plane: np.ndarray, mask: np.ndarray, geometry: Geometry, path: Path
) -> tuple[DrawnSlice, ...]:
    """Add the pixels of a plane to a mask on the scan's grid; () for a plane without any.

    Both grids must have voxels of the same size and axes. A shift within the plane is rounded to whole voxels: a scan
    with a tilted gantry was resampled to a straight grid.
    """
    rows, columns = np.nonzero(pixels)
    if not len(rows):
        return ()
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
    outside = int(np.count_nonzero(~inside))
    return (DrawnSlice(int(index[through, 0]), len(rows), outside, distance_from_scan(index, geometry)),)
