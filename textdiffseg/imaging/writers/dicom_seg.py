"""DICOM segmentation objects (PS3.3, A.51), by highdicom: one binary segment per label, on the slices of the scan."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from plans.layout import DICOM_SEG
from textdiffseg.files import hash_text, write_atomically
from textdiffseg.imaging.writers.dicom_texts import CHARACTER_SET, MANUFACTURER, SERIAL_NUMBER, long_string
from textdiffseg.imaging.writers.plain_headers import plain_headers, restore_classes, with_fields
from textdiffseg.imaging.writers.source_slices import SourceSlices
from textdiffseg.masks import mask_of

SERIES_NUMBER = 300
SCHEME = "99TDS"  # of codes that only this project knows: a hash of the label's name
CODE_LETTERS = 16


def write_segmentation(
    path: Path, placed: np.ndarray, structures: Mapping[str, Collection[int]], source: SourceSlices, version: str
) -> None:
    """Write a DICOM-SEG file. It has the patient and the study of the source.

    Args:
        path: of the file.
        placed: the value of each pixel (slices, rows, columns) of the source.
        structures: the values of each label, by name. Labels may overlap.
        source: the slices of the scan.
        version: of TextDiffSeg.
    """
    segments = _segments(placed, list(structures.values()))
    segmentation = _built(segments, structures, source, version)
    file = BytesIO()
    segmentation.save_as(file, enforce_file_format=True)
    write_atomically(path, file.getvalue())


def check_segmentation(source: SourceSlices) -> None:
    """Raise `UserError` if no DICOM-SEG file can be made of the headers of a scan. One pixel per slice is tried."""
    with source.checked(DICOM_SEG):
        headers = [with_fields(header, Rows=1, Columns=1) for header in plain_headers(source)]
        _build(np.ones((len(source.slices), 1, 1), np.uint8), ["label"], headers, "0")


def _built(segments: np.ndarray, names: Iterable[str], source: SourceSlices, version: str) -> Segmentation:
    with source.checked(DICOM_SEG):
        segmentation = _build(segments, names, plain_headers(source), version)
    restore_classes(segmentation, source)
    return segmentation


def _build(segments: np.ndarray, names: Iterable[str], headers: Sequence[Dataset], version: str) -> Segmentation:
    return Segmentation(
        source_images=headers,
        pixel_array=segments,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(number, name, version) for number, name in enumerate(names, start=1)],
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version,
        device_serial_number=SERIAL_NUMBER,
        series_description=f"{MANUFACTURER} segmentation",
        content_label="SEGMENTATION",
        specific_character_set=CHARACTER_SET,
        omit_empty_frames=bool(segments.any()),  # a file needs a frame
    )


def _segments(placed: np.ndarray, values: list[Collection[int]]) -> np.ndarray:
    """Segment numbers (slices, rows, columns), or masks (slices, rows, columns, segments) if segments overlap."""
    if len(set().union(*values)) == sum(map(len, values)):
        numbers = np.zeros(placed.shape, dtype=np.uint16)
        for number, label_values in enumerate(values, start=1):
            numbers[mask_of(placed, label_values)] = number
        return numbers
    masks = np.zeros((*placed.shape, len(values)), dtype=np.uint8)
    for number, label_values in enumerate(values):
        masks[..., number] = mask_of(placed, label_values)
    return masks


def _described(number: int, name: str, version: str) -> SegmentDescription:
    """The description of a segment. The type of the structure is a code of our own: only its name is known."""
    return SegmentDescription(
        segment_number=number,
        segment_label=long_string(name),
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=CodedConcept(hash_text(name)[:CODE_LETTERS], SCHEME, long_string(name)),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            MANUFACTURER, codes.DCM.ArtificialIntelligence, version
        ),
    )
