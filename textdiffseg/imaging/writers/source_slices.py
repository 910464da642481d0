"""The slices of a DICOM scan, to which DICOM outputs refer, and label maps on these slices."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA, TM

from plans.errors import UserError
from plans.layout import Conversion
from textdiffseg.imaging.sources.dicom.files import DicomSource
from textdiffseg.imaging.sources.dicom.stack import plane_affine
from textdiffseg.imaging.sources.streams import zip_faults_as_damage
from textdiffseg.imaging.volume import Geometry

_MAX_ROUNDING_VOXELS = 1e-3  # below it two grids are the same
# Attributes that may be empty, but not missing (type 2). Anonymous files often lack them.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "SliceThickness",
)  # fmt: skip
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Place:
    """The data sets that hold the place of a slice: its file, or functional groups of an enhanced file."""

    position: Dataset  # with ImagePositionPatient
    orientation: Dataset  # with ImageOrientationPatient
    measures: Dataset  # with PixelSpacing


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of a multi-frame file."""

    header: Dataset  # of the file, without pixels
    frame: int | None  # from 1; None: the file is the slice
    place: Place
    plane: np.ndarray  # (4, 3): (row, column, 1) -> world LPS in mm


@dataclass(frozen=True)
class SourceSlices:
    """The slices of a DICOM scan in the order of its files."""

    name: str  # of the first file, for messages
    headers: tuple[Dataset, ...]  # one per file
    slices: tuple[Slice, ...]
    shape: tuple[int, int]  # rows, columns

    @contextmanager
    def checked(self, option: Conversion) -> Iterator[None]:
        """Turn an error of highdicom into a `UserError` without values, which may be data of the patient.

        `option` is what is made of the slices, for messages.
        """
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"{self.name}: no {option} can be made from its header ({type(error).__name__} of "
                f"highdicom). Leave --{option} out, or export the scan again."
            ) from error

    def place(self, labels: np.ndarray, geometry: Geometry) -> np.ndarray:
        """A label map (D, H, W) on the slices (slices, rows, columns). Each pixel has the value of the nearest voxel.

        The grids differ only if the scan was resampled, as one with a tilted gantry. Pixels outside are 0.
        """
        placed = np.zeros((len(self.slices), *self.shape), dtype=labels.dtype)
        for number, source_slice in enumerate(self.slices):
            index = np.linalg.solve(geometry.affine, source_slice.plane)[:3]  # (row, column, 1) -> (d, h, w)
            placed[number] = _sample(labels, index, self.shape)
        return placed


def read_slices(files: Sequence[DicomSource]) -> SourceSlices:
    """The slices in DICOM files of one series. Raises `UserError` if outputs cannot refer to them."""
    headers = [_read_header(file) for file in files]
    first, name = headers[0], files[0].name
    frames = int(first.get("NumberOfFrames") or 1)
    if len(headers) > 1 and any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise UserError(f"{name}: it belongs to a series of several multi-frame files. DICOM outputs need one file.")
    if any(first.get(sequence) for sequence in _GROUPS):
        slices = [_slice_of_frame(header, frame) for header in headers for frame in range(1, frames + 1)]
    else:
        places = [Place(header, header, header) for header in headers]
        slices = [Slice(place.position, None, place, _plane(place)) for place in places]
    return SourceSlices(name, tuple(headers), tuple(slices), (int(first.Rows), int(first.Columns)))


def _read_header(source: DicomSource) -> Dataset:
    """The header of a file. Empty values replace those that are missing or invalid, where the standard allows it."""
    try:
        with source.open() as file, zip_faults_as_damage():
            header = dcmread(file, stop_before_pixels=True, force=True)  # without a preamble, too
    except (InvalidDicomError, OSError):
        raise UserError(f"{source.name} cannot be read as DICOM. Copy it again or remove it.") from None
    if missing := [name for name in _NEEDED if not header.get(name)]:
        raise UserError(
            f"{source.name}: its {missing[0]} is missing, so no DICOM output can refer to it. Export it again."
        )
    for name in _MAY_BE_EMPTY:
        try:
            _TYPES.get(name, str)(header[name].value)
        except (KeyError, ValueError, TypeError):
            setattr(header, name, "")
    return header


def _sex(value: str) -> None:
    if value not in ("M", "F", "O", ""):
        raise ValueError(value)


_TYPES: dict[str, Callable[[str], object]] = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
    "PatientSex": _sex,
}


def _slice_of_frame(header: Dataset, frame: int) -> Slice:
    """A frame of an enhanced file, from 1. The fields of its place are in functional groups, shared or of the frame."""
    of_frames, shared = (list(header.get(sequence) or ()) for sequence in _GROUPS)
    groups = [*of_frames[frame - 1 : frame], *shared]

    def found(name: str) -> Dataset:
        return next((group[name].value[0] for group in groups if group.get(name)), header)

    place = Place(*map(found, ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")))
    return Slice(header, frame, place, _plane(place))


def _plane(place: Place) -> np.ndarray:
    return plane_affine(
        place.orientation.ImageOrientationPatient, place.measures.PixelSpacing, place.position.ImagePositionPatient
    )


def _sample(labels: np.ndarray, index: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The values of labels (D, H, W) at the pixels of a slice. index (3, 3): (row, column, 1) -> (d, h, w)."""
    d = round(index[0, 2])
    aligned = np.array([[0, 0, d], [1, 0, 0], [0, 1, 0]])
    corners = np.array([[0, 0, 1], [shape[0], 0, 1], [shape[0], shape[1], 1]]).T
    if labels.shape[1:] == shape and np.abs((index - aligned) @ corners).max() < _MAX_ROUNDING_VOXELS:
        return labels[d] if 0 <= d < len(labels) else np.zeros(shape, dtype=labels.dtype)
    rows, columns = np.indices(shape, sparse=True)
    indices = [np.rint(a * rows + b * columns + c).astype(np.intp) for a, b, c in index]
    inside = np.logical_and.reduce([(at >= 0) & (at < size) for at, size in zip(indices, labels.shape, strict=True)])
    clipped = [np.clip(at, 0, size - 1) for at, size in zip(indices, labels.shape, strict=True)]
    return np.where(inside, labels[tuple(clipped)], 0)
