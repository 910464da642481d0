"""Headers of a scan in the forms that highdicom reads.

It reads a file of many frames only if the orientation and the spacing are shared by all frames. It reads several files
only if their class has no frames. The standard allows more: an orientation per frame, and enhanced files of one frame.
"""

from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import CTImageStorage

from textdiffseg.imaging.writers.source_slices import Slice, SourceSlices


def plain_headers(source: SourceSlices) -> list[Dataset]:
    """The headers of the source, as highdicom reads them. Those of enhanced files are changed copies.

    Copies of several files have a class without frames. `restore_classes` puts the right one into the output.
    """
    if all(one.frame is None for one in source.slices):
        return list(source.headers)
    if len(source.headers) == 1:
        return [_with_shared_groups(source)]
    return [_as_slice(one) for one in source.slices]


def restore_classes(dataset: Dataset, source: SourceSlices) -> None:
    """Give each reference of an output to a file of the source the class of that file."""
    classes = {header.SOPInstanceUID: header.SOPClassUID for header in source.headers}

    def restore(owner: Dataset, element: DataElement) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value in classes:
            owner.ReferencedSOPClassUID = classes[element.value]

    if any(one.frame is not None for one in source.slices) and len(source.headers) > 1:
        dataset.walk(restore)


def with_fields(dataset: Dataset, **fields: object) -> Dataset:
    """A copy with other values. It shares all other elements with the original."""
    copied = Dataset()
    copied.update({tag: element for tag, element in dataset.items() if keyword_for_tag(tag) not in fields})
    for name, value in fields.items():
        setattr(copied, name, value)
    return copied


def _with_shared_groups(source: SourceSlices) -> Dataset:
    """A file of many frames. Its frames have their positions only; the rest is shared."""
    header, first = source.headers[0], source.slices[0].place
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    shared = with_fields(shared, PlaneOrientationSequence=[first.orientation], PixelMeasuresSequence=[first.measures])
    frames = [with_fields(Dataset(), PlanePositionSequence=[one.place.position]) for one in source.slices]
    return with_fields(header, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames)


def _as_slice(one: Slice) -> Dataset:
    """A file with one frame as a slice of CT, whose place is not in functional groups."""
    header, place = one.header, one.place
    return with_fields(
        header,
        SOPClassUID=CTImageStorage,
        ImagePositionPatient=place.position.ImagePositionPatient,
        ImageOrientationPatient=place.orientation.ImageOrientationPatient,
        PixelSpacing=place.measures.PixelSpacing,
        SliceThickness=place.measures.get("SliceThickness", header.get("SliceThickness", "")),
    )
