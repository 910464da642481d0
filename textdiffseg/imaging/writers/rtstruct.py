"""DICOM structure sets of radiotherapy (PS3.3, A.19): the outlines of each label on the slices of the scan.

rt-utils is not used. It exchanges the two pixel spacings, and its outlines run through the centres of the outer pixels,
so that structures lose a pixel and thin ones vanish.
"""

import colorsys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from highdicom.base import SOPClass
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from plans.layout import RTSTRUCT
from textdiffseg.files import write_atomically
from textdiffseg.imaging.writers.contours import outlines
from textdiffseg.imaging.writers.dicom_texts import CHARACTER_SET, MANUFACTURER, SERIAL_NUMBER, long_string
from textdiffseg.imaging.writers.source_slices import Slice, SourceSlices
from textdiffseg.masks import mask_of

SERIES_NUMBER = 301
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, which readers expect here
_CONTOUR_DATA = Tag("ContourData")
_GOLDEN = 0.618  # steps of the hue, so that neighbours differ


def write_structures(
    path: Path, placed: np.ndarray, structures: Mapping[str, Collection[int]], source: SourceSlices, version: str
) -> None:
    """Write an RTSTRUCT file. Its arguments are those of `write_segmentation`. An absent label has no outline."""
    dataset = _begun(source, version)
    for number, (name, values) in enumerate(structures.items(), start=1):
        _add(dataset, source, number, name, mask_of(placed, values))
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    write_atomically(path, file.getvalue())


def check_structures(source: SourceSlices) -> None:
    """Raise `UserError` if no RTSTRUCT file can be made of the headers of a scan."""
    _begun(source, "")


def _begun(source: SourceSlices, version: str) -> SOPClass:
    with source.checked(RTSTRUCT):
        return _begin(source, version)


def _begin(source: SourceSlices, version: str) -> SOPClass:
    """The structure set without structures."""
    first, now = source.headers[0], datetime.now()
    dataset = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version,
        device_serial_number=SERIAL_NUMBER,
        transfer_syntax_uid=ImplicitVRLittleEndian,  # others limit a contour to 64 kB
        series_description=f"{MANUFACTURER} structures",
        specific_character_set=CHARACTER_SET,
    )
    dataset.copy_patient_and_study_information(first)
    dataset.StructureSetLabel = MANUFACTURER
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    return dataset


def _frame_of_reference(source: SourceSlices) -> Dataset:
    first, series, study, frame = source.headers[0], Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(plane) for plane in source.slices]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _add(dataset: Dataset, source: SourceSlices, number: int, name: str, mask: np.ndarray) -> None:
    """Add a structure. mask (slices, rows, columns)."""
    roi, drawn, observation = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = number, long_string(name)
    roi.ReferencedFrameOfReferenceUID = source.headers[0].FrameOfReferenceUID
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    drawn.ReferencedROINumber = number
    drawn.ROIDisplayColor = [round(255 * share) for share in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.8, 1)]
    if contours := [
        contour
        for source_slice, plane in zip(source.slices, mask, strict=True)
        for contour in _contours(source_slice, plane)
    ]:
        drawn.ContourSequence = contours
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = observation.ROIInterpreter = ""
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)
    dataset.RTROIObservationsSequence.append(observation)


def _contours(source_slice: Slice, mask: np.ndarray) -> Iterator[Dataset]:
    reference = [_reference(source_slice)]
    for polygon in outlines(mask):
        points = np.column_stack([polygon, np.ones(len(polygon))]) @ source_slice.plane[:3].T
        contour = Dataset()
        contour.ContourImageSequence = reference
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        contour[_CONTOUR_DATA] = _numbers(points)
        yield contour


def _numbers(points: np.ndarray) -> RawDataElement:
    """Coordinates in mm as a value that is written as it is. pydicom would check each number, which takes minutes."""
    text = "\\".join(f"{value:.4f}" for value in points.ravel().tolist())
    content = (text + " " * (len(text) % 2)).encode()
    return RawDataElement(_CONTOUR_DATA, "DS", len(content), content, 0, True, True)


def _reference(source_slice: Slice) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
        source_slice.header.SOPClassUID,
        source_slice.header.SOPInstanceUID,
    )
    if source_slice.frame is not None:
        item.ReferencedFrameNumber = source_slice.frame
    return item
