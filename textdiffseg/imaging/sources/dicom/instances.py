"""The image of one DICOM file, and its frames. A slice has one frame; enhanced CT and MR files have many.

Enhanced files keep the position, the orientation and the scale of each frame in functional groups (PS3.3, C.7.6.16).
"""

import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom.elements import CLASS, DEFLATED, Elements, Header, Wanted, read_header
from textdiffseg.imaging.sources.dicom.files import DicomSource
from textdiffseg.imaging.sources.formats import START_BYTES, wrong_ending
from textdiffseg.imaging.sources.numerals import real_number
from textdiffseg.imaging.sources.streams import Damaged, zip_faults_as_damage

IMAGE_TYPE, INSTANCE, MODALITY, THICKNESS = 0x00080008, 0x00080018, 0x00080060, 0x00180050
STUDY, SERIES, SERIES_NUMBER, FRAME_OF_REFERENCE = 0x0020000D, 0x0020000E, 0x00200011, 0x00200052
PATIENT_ID = 0x00100020  # compared, and never shown
POSITION, ORIENTATION, SPACING = 0x00200032, 0x00200037, 0x00280030
SAMPLES, FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280008, 0x00280010, 0x00280011
PHOTOMETRIC = 0x00280004
ALLOCATED, STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
INTERCEPT, SLOPE, LOOKUP_TABLE = 0x00281052, 0x00281053, 0x00283000
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_EFFECTIVE_ECHO_TIME, _B_VALUE = 0x00189082, 0x00189087
_DOUBLES = (_EFFECTIVE_ECHO_TIME, _B_VALUE)  # stored as binary numbers, not as text
# Attributes that all slices of one image share, with their names. A series may hold several images.
KINDS = {
    CLASS: "SOPClassUID",
    0x00180081: "EchoTime",
    0x00180086: "EchoNumbers",
    _EFFECTIVE_ECHO_TIME: "EffectiveEchoTime",
    _B_VALUE: "DiffusionBValue",
    0x00209056: "StackID",
    0x00541001: "Units",
}
# Functional groups: plane position, plane orientation, pixel measures, pixel value transformation, frame content,
# echo, diffusion.
_GROUPS = (0x00209113, 0x00209116, 0x00289110, 0x00289145, 0x00209111, 0x00189114, 0x00189117)
_OF_FRAMES = (POSITION, ORIENTATION, SPACING, INTERCEPT, SLOPE, *KINDS)
_WANTED = Wanted(
    (
        *(IMAGE_TYPE, INSTANCE, MODALITY, THICKNESS, STUDY, SERIES, SERIES_NUMBER, FRAME_OF_REFERENCE),
        *(PATIENT_ID, SAMPLES, PHOTOMETRIC, FRAMES),
        *(ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, SIGNED, *_OF_FRAMES),
    ),
    (LOOKUP_TABLE, SHARED_GROUPS, FRAME_GROUPS, *_GROUPS),
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CT, MR, NM, PET and secondary capture. Such files always have pixels.
_IMAGES = {_STORAGE + one for one in ("2", "2.1", "2.2", "4", "4.1", "4.4", "7", "20", "128", "128.1", "130")}
_NOT_SCANS = tuple(_STORAGE + one for one in ("66.", "481."))  # segmentations and radiotherapy
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class Frame:
    """One frame of a file, and its place in space. None: the file does not hold it."""

    instance: "Instance"
    number: int  # in the file, from 0
    position: tuple[float, ...] | None  # of the centre of the first pixel, LPS in mm
    orientation: tuple[float, ...] | None  # the direction along a row, then that along a column
    spacing: tuple[float, ...] | None  # mm between rows, then between columns
    slope: float
    intercept: float
    is_scaled: bool  # slope and intercept are in the file
    kinds: tuple[str, ...]  # the values of `KINDS`, as text; empty where they are missing


@dataclass(frozen=True)
class Instance:
    """The header of a DICOM file with an image."""

    source: DicomSource
    header: Header

    @property
    def series(self) -> str:
        """The UID of its series."""
        return self.text(SERIES)

    @property
    def study(self) -> str:
        """The UID of its study."""
        return self.text(STUDY)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.whole(ROWS), self.whole(COLUMNS)

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout, on which the scan was planned."""
        return "LOCALIZER" in self.text(IMAGE_TYPE).upper().split("\\")

    @property
    def is_colour(self) -> bool:
        """Whether it is a colour picture. The values of a palette are the numbers of its colours."""
        return self.whole(SAMPLES, 1) != 1 or self.text(PHOTOMETRIC).upper() == "PALETTE COLOR"

    @property
    def count(self) -> int:
        """The number of frames."""
        count = self.text(FRAMES)
        if not count:
            return 1
        if not count.isdecimal() or not 1 <= int(count) <= MAX_FRAMES:
            raise self.wrong("NumberOfFrames", count)
        return int(count)

    @property
    def thickness(self) -> float:
        """Of a slice in mm; 0 if it is unknown."""
        found = self._numbers(self.header.elements, THICKNESS, 1, "SliceThickness")
        return found[0] if found else 0.0

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """Its frames. Raises `UserError` for values that are not numbers."""
        shared = _flat(self._items(SHARED_GROUPS))
        own = self._items(FRAME_GROUPS)
        if own and len(own) != self.count:
            raise self.wrong("PerFrameFunctionalGroupsSequence", f"{len(own)} items for {self.count} frames")
        values = [self.header.elements | shared | _flat([item]) for item in own] or [self.header.elements | shared]
        if len(values) < self.count:
            values *= self.count
        return tuple(self._frame(number, elements) for number, elements in enumerate(values))

    def text(self, tag: int) -> str:
        """A value as text; empty if it is missing."""
        return _text(self.header.elements, tag)

    def whole(self, tag: int, default: int = 0) -> int:
        """A value of two bytes."""
        value = self.header.elements.get(tag, b"")
        return struct.unpack(f"{self.header.order}H", value[:2])[0] if len(value) >= 2 else default  # type: ignore[arg-type]

    def wrong(self, field: str, found: str) -> UserError:
        """The error for a field that cannot be used."""
        return UserError(f"{self.source.name}: its {field} is {found[:60]!r}, which cannot be used. Export it again.")

    def _items(self, tag: int) -> list[Elements]:
        found = self.header.elements.get(tag, [])
        return found if isinstance(found, list) else []

    def _frame(self, number: int, elements: Elements) -> Frame:
        slope = self._numbers(elements, SLOPE, 1, "RescaleSlope") or (1.0,)
        intercept = self._numbers(elements, INTERCEPT, 1, "RescaleIntercept")
        if not slope[0]:
            raise self.wrong("RescaleSlope", "0")
        return Frame(
            self,
            number,
            self._numbers(elements, POSITION, 3, "ImagePositionPatient"),
            self._numbers(elements, ORIENTATION, 6, "ImageOrientationPatient"),
            self._numbers(elements, SPACING, 2, "PixelSpacing"),
            slope[0],
            (intercept or (0.0,))[0],
            intercept is not None,
            tuple(self._kind(elements, tag) for tag in KINDS),
        )

    def _kind(self, elements: Elements, tag: int) -> str:
        """A value of `KINDS` as text. Empty: it is missing."""
        value = elements.get(tag, b"")
        if tag in _DOUBLES and isinstance(value, bytes) and len(value) == 8:
            return f"{struct.unpack(f'{self.header.order}d', value)[0]:g}"
        return _text(elements, tag)

    def _numbers(self, elements: Elements, tag: int, count: int, field: str) -> tuple[float, ...] | None:
        text = _text(elements, tag)
        if not text:
            return None
        try:
            found = tuple(real_number(word) for word in text.split("\\"))
        except ValueError:
            raise self.wrong(field, text) from None
        if len(found) != count or not all(isfinite(value) for value in found):
            raise self.wrong(field, text)
        return found


def read_instance(source: DicomSource) -> Instance | None:
    """The header of a file; None for DICOM objects that are not images of a scan. Raises `UserError`."""
    try:
        with source.open() as file, zip_faults_as_damage():
            header = read_header(file, source.size, _WANTED)
        instance = Instance(source, header)
        sop_class = instance.text(CLASS)
        if header.syntax == DEFLATED and sop_class in ("", *_IMAGES):
            raise UserError(
                f"{source.name}: its header is compressed (Deflated Explicit VR), which is not read. Export it "
                "uncompressed."
            )
        if header.pixels is None and sop_class in _IMAGES:
            raise Damaged("it ends before its pixels")
    except Damaged as error:
        line = wrong_ending(source.name, _start(source))
        if line:
            raise UserError(line) from None
        raise UserError(f"{source.name} is truncated or damaged ({error}). Copy it again or remove it.") from None
    if header.pixels is None or sop_class.startswith(_NOT_SCANS) or not all(instance.shape):
        return None
    return instance


def _start(source: DicomSource) -> bytes:
    """The first bytes of a file. Empty if they cannot be read."""
    with suppress(Damaged, OSError), source.open() as file, zip_faults_as_damage():
        return file.read(START_BYTES)
    return b""


def _text(elements: Elements, tag: int) -> str:
    value = elements.get(tag, b"")
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def _flat(items: Iterable[Elements]) -> Elements:
    """The values of frames in functional groups."""
    found: Elements = {}
    for item in items:
        for group in _GROUPS:
            inner = item.get(group, [])
            for one in inner if isinstance(inner, list) else []:
                found |= {tag: one[tag] for tag in _OF_FRAMES if tag in one}
    return found
