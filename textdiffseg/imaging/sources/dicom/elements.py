"""The data elements of a DICOM file up to its pixels (PS3.5, section 7).

The file is read only as far as needed: a few kB of a slice. GDCM reads all pixels to give a header. It drops the values
that multi-frame files store for each frame, and it reads memory behind pixel data that are too short.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from textdiffseg.imaging.sources.streams import Damaged

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # in single precision, in double precision, whole numbers
UNDEFINED = 0xFFFFFFFF  # length of an element that ends with a delimiter
_MEDIA_CLASS, _SYNTAX = 0x00020002, 0x00020010
CLASS = 0x00080016
PREAMBLE_BYTES = 132  # 128 of any value, then DICM
# The usual first elements of files without a preamble, of group 2 or 8.
_FIRST = {bytes((2, 0, number, 0)) for number in (0, 1, 2, 16)} | {bytes((8, 0, number, 0)) for number in (0, 5, 8, 22)}
_DELIMITERS = 0xFFFE  # group
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = {*(b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")}
_MAX_VALUE_BYTES = 1 << 16  # of a value that is kept; the longest is a list of a few numbers
_MAX_DEPTH = 16
_MAX_ITEMS = 100_000  # of a sequence, such as one per frame
_MAX_HEADER_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 14


@dataclass(frozen=True)
class Wanted:
    """The tags whose values are kept."""

    values: Collection[int]
    sequences: Collection[int] = ()


Elements = dict[int, "bytes | list[Elements]"]
"""The values by tag, e.g. 0x00280010 for (0028,0010). A sequence is a list of its items."""


@dataclass(frozen=True)
class Header:
    """The elements of a file before its pixels."""

    elements: Elements
    syntax: str  # UID of the transfer syntax
    pixels: int | None  # the tag of the pixel data; None: the file has none
    offset: int = 0  # of the pixel data's value, in bytes
    length: int = 0  # of it; `UNDEFINED`: it consists of fragments
    kind: bytes = b""  # of the pixel data: OB, OW, ...; empty in the implicit encoding

    @property
    def order(self) -> str:
        """The order of bytes, as in `struct`."""
        return ">" if self.syntax == BIG_ENDIAN else "<"


def is_dicom(start: bytes) -> bool:
    """Whether a file begins as DICOM files do. `start`: its first `PREAMBLE_BYTES`. Old files begin with an element."""
    is_first_element = start[:4] in _FIRST and (start[4:6].isupper() or start[6:8] == b"\0\0")
    return start[128:PREAMBLE_BYTES] == b"DICM" or is_first_element


def read_header(file: BinaryIO, size: int, wanted: Wanted) -> Header:
    """The header of a file of `size` bytes. Raises `Damaged`."""
    source = _Bytes(file, size)
    if source.peek(PREAMBLE_BYTES)[128:] == b"DICM":
        source.skip(PREAMBLE_BYTES)
    if not source.peek(1):
        raise Damaged("it ends too early")
    if not any(source.peek(4)):  # no element has the tag 0, but a slice on a bad disk may become zeros
        raise Damaged("it begins with zeros")
    syntax, sop_class = _read_meta(source)
    if syntax == DEFLATED:
        return Header({CLASS: sop_class}, syntax, None)
    reader = _Reader(source, ">" if syntax == BIG_ENDIAN else "<", syntax != IMPLICIT, wanted)
    elements, pixels = reader.elements()
    if pixels is None:
        return Header(elements, syntax, None, source.position)
    return Header(elements, syntax, pixels.tag, source.position, pixels.length, pixels.kind)


def fragments(file: BinaryIO, size: int, offset: int) -> int:
    """The bytes of compressed pixel data from `offset` on, with their delimiters (PS3.5, A.4). Raises `Damaged`."""
    source = _Bytes(file, size, max_bytes=size)
    source.skip(offset)
    _skip_fragments(source)
    return source.position - offset


def _skip_fragments(source: "_Bytes") -> None:
    while True:
        group, number, length = struct.unpack("<HHI", source.take(8))
        if group << 16 | number == _SEQUENCE_END:
            return
        if group << 16 | number != _ITEM:
            raise Damaged(f"no fragment of pixels in byte {source.position - 8}")
        source.skip(length)


def _read_meta(source: "_Bytes") -> tuple[str, bytes]:
    """The transfer syntax and the SOP class, from the file's meta information if it has some."""
    meta, syntax, sop_class = _Reader(source, "<", True, Wanted(())), "", b""
    while source.peek(2) == b"\x02\0":
        head = meta.head()
        if head.tag == _SYNTAX:
            syntax = meta.value(head.length).decode("ascii", "replace").strip(" \0")
        elif head.tag == _MEDIA_CLASS:
            sop_class = meta.value(head.length)
        else:
            source.skip(head.length)
    return syntax or (EXPLICIT if source.peek(6)[4:].isupper() else IMPLICIT), sop_class


class _Bytes:
    """The bytes of a file from its start. They are read forward in chunks, so that a compressed member may be read."""

    def __init__(self, file: BinaryIO, size: int, max_bytes: int = _MAX_HEADER_BYTES):
        self._file, self._size, self._max_bytes = file, size, max_bytes
        self._chunk, self._at, self._start = b"", 0, 0  # `_start`: of the chunk; `_at`: within it

    @property
    def position(self) -> int:
        return self._start + self._at

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        if self._at + count > len(self._chunk):
            rest = self._chunk[self._at :]
            self._start, self._at = self.position, 0
            self._chunk = rest + self._file.read(max(count - len(rest), _CHUNK_BYTES))
        return self._chunk[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        found = self.peek(count)
        if len(found) < count:
            raise Damaged("it ends too early")
        self._at += count
        return found

    def skip(self, count: int) -> None:
        if self.position + count > self._size:
            raise Damaged("it ends too early")
        if self.position + count > self._max_bytes:
            raise Damaged(f"its header has more than {self._max_bytes >> 20} MB")
        if self._at + count <= len(self._chunk):
            self._at += count
            return
        target = self.position + count
        self._file.seek(target)
        self._chunk, self._at, self._start = b"", 0, target


@dataclass(frozen=True)
class _Head:
    """What stands before the value of an element."""

    tag: int
    kind: bytes  # such as US; empty in the implicit encoding
    length: int


class _Reader:
    """Reads elements in one encoding."""

    def __init__(self, source: _Bytes, order: str, explicit: bool, wanted: Wanted, depth: int = 0):
        self._source, self._order, self._explicit, self._wanted, self._depth = source, order, explicit, wanted, depth
        if depth > _MAX_DEPTH:
            raise Damaged(f"its sequences are nested more than {_MAX_DEPTH} deep")

    def elements(self, length: int = UNDEFINED) -> tuple[Elements, _Head | None]:
        """The wanted elements of `length` bytes, and the head of the pixel data if they follow."""
        end, found = self._source.position + length, Elements()
        while self._source.position < end and (self._depth or self._source.peek(1)):
            head = self.head()
            tag, kind, size = head.tag, head.kind, head.length
            if tag == _ITEM_END:
                break
            if tag in PIXEL_DATA and self._depth == 0:
                return found, head
            if size == UNDEFINED and kind in (b"OB", b"OW"):  # compressed pixels of an icon
                _skip_fragments(self._source)
            elif size == UNDEFINED or tag in self._wanted.sequences:
                explicit = self._explicit and kind != b"UN"  # PS3.5, 6.2.2: such a sequence is implicit
                inner = _Reader(self._source, self._order, explicit, self._wanted, self._depth + 1)
                items = inner._items(size)
                if tag in self._wanted.sequences:
                    found[tag] = items
            elif tag in self._wanted.values:
                found[tag] = self.value(size)
            else:
                self._source.skip(size)
        return found, None

    def head(self) -> _Head:
        """The head of the next element."""
        group, number = self._numbers("HH", 4)
        tag = group << 16 | number
        if group == _DELIMITERS or not self._explicit:
            return _Head(tag, b"", self._numbers("I", 4)[0])
        kind = self._source.take(2)
        if not (kind.isalpha() and kind.isupper()):
            raise Damaged(f"no data element in byte {self._source.position - 6}")
        if kind in _LONG:
            self._source.skip(2)
            return _Head(tag, kind, self._numbers("I", 4)[0])
        return _Head(tag, kind, self._numbers("H", 2)[0])

    def value(self, length: int) -> bytes:
        """The next value."""
        if length > _MAX_VALUE_BYTES:
            raise Damaged(f"a value of {length} bytes, where a few numbers were expected")
        return self._source.take(length)

    def _items(self, length: int) -> list[Elements]:
        """The items of a sequence of `length` bytes."""
        end, found = self._source.position + length, list[Elements]()
        while self._source.position < end:
            group, number, size = self._numbers("HHI", 8)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise Damaged(f"no item of a sequence in byte {self._source.position - 8}")
            found.append(self.elements(size)[0])
            if len(found) > _MAX_ITEMS:
                raise Damaged(f"a sequence of more than {_MAX_ITEMS} items")
        return found

    def _numbers(self, kinds: str, size: int) -> tuple[int, ...]:
        return struct.unpack(self._order + kinds, self._source.take(size))
