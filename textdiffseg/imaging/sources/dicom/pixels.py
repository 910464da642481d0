"""The values of frames.

GDCM decompresses the compressed ones. It gets a copy in memory without slopes, as it applies one slope to all frames.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import prod
from typing import BinaryIO

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom.decompress import CannotDecompress, Decompressor
from textdiffseg.imaging.sources.dicom.elements import (
    BIG_ENDIAN,
    CLASS,
    EXPLICIT,
    IMPLICIT,
    PIXEL_DATA,
    UNDEFINED,
    Header,
    fragments,
)
from textdiffseg.imaging.sources.dicom.encapsulated import one_fragment_per_frame
from textdiffseg.imaging.sources.dicom.instances import (
    ALLOCATED,
    COLUMNS,
    FRAMES,
    HIGH_BIT,
    INSTANCE,
    PHOTOMETRIC,
    ROWS,
    SAMPLES,
    SIGNED,
    STORED,
    Frame,
    Instance,
)
from textdiffseg.imaging.sources.streams import MAX_TRAILING_BYTES, Damaged, zip_faults_as_damage
from textdiffseg.resources import free_memory

_SYNTAXES = "1.2.840.10008.1.2."
_PLAIN = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
# RLE, JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000.
_COMPRESSED = {_SYNTAXES + one for one in ("5", "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91")}
_MAX_RATIO = 10_000  # of compression; JPEG 2000 stores an empty slice in about 200 bytes
_CHUNK_BYTES = 1 << 20
_PICTURE, _FLOATS, _DOUBLES = 0x7FE00010, PIXEL_DATA[0], PIXEL_DATA[1]
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame


def read_frames(frames: Sequence[Frame]) -> np.ndarray:
    """The values (frames, rows, columns) float32, each frame with its own slope and intercept. Raises `UserError`."""
    instances = list({id(frame.instance): frame.instance for frame in frames}.values())
    for instance in instances:
        with _named(instance):
            _check(instance)
    shape = (len(frames), *instances[0].shape)
    need = 4.0 * prod(shape) + max(instance.count * prod(instance.shape) for instance in instances) * 8.0
    if need > (free := free_memory()):
        raise UserError(
            f"{instances[0].source.name}: its series needs {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free. Use a larger machine."
        )
    values = np.empty(shape, dtype=np.float32)
    rows = {(id(frame.instance), frame.number): row for row, frame in enumerate(frames)}
    with Decompressor() as decompressor, np.errstate(over="ignore"):  # infinite values are refused later
        for instance in instances:
            with _named(instance):
                stored = _stored(instance, decompressor)
            for frame in instance.frames:
                if (row := rows.get((id(instance), frame.number))) is not None:
                    values[row] = stored[frame.number] * np.float64(frame.slope) + frame.intercept
    return values


def _check(instance: Instance) -> None:
    """Raise `Damaged` or `UserError` if the declared pixels cannot be in the file. Nothing is allocated."""
    header, name = instance.header, instance.source.name
    need = instance.count * prod(instance.shape) * _kind(instance).itemsize
    follow = instance.source.size - header.offset  # a zip may declare much more than it holds
    if follow > 2 * need + MAX_TRAILING_BYTES:
        raise Damaged(f"its pixels should have {need} bytes, and {follow} bytes follow")
    if header.syntax not in _PLAIN:
        if header.syntax not in _COMPRESSED:
            raise UserError(
                f"{name}: its pixels are compressed with {header.syntax[:64]}, which is not read. Export it "
                "uncompressed, or with JPEG, JPEG-LS, JPEG 2000 or RLE."
            )
        if header.length != UNDEFINED or header.pixels != _PICTURE:
            raise Damaged("its compressed pixels are not stored in fragments")
        if need > instance.source.size * _MAX_RATIO:
            raise Damaged(f"{need} bytes of pixels are declared, and the file has {instance.source.size} bytes")
        return
    row = instance.shape[1] * _kind(instance).itemsize
    if not need <= header.length <= need + row:  # a few bytes may follow
        raise Damaged(f"{need} bytes of pixels are declared, {header.length} are stored")
    if header.offset + header.length > instance.source.size:
        raise Damaged("it ends inside its pixels")


def _kind(instance: Instance) -> np.dtype:
    """The type of the stored values."""
    if instance.header.pixels in (_FLOATS, _DOUBLES):
        return np.dtype(f"{instance.header.order}f{4 if instance.header.pixels == _FLOATS else 8}")
    bits = instance.whole(ALLOCATED)
    stored = instance.whole(STORED, bits)
    high = instance.whole(HIGH_BIT, stored - 1)
    if bits not in (8, 16, 32) or not 1 <= stored <= high + 1 <= bits:
        raise instance.wrong("BitsAllocated, BitsStored or HighBit", f"{bits}, {stored}, {high}")
    if not instance.header.elements.get(SIGNED):
        raise UserError(
            f"{instance.source.name}: its PixelRepresentation is missing, so it is not known whether its values have a "
            "sign. Export it again."
        )
    return np.dtype(f"{instance.header.order}{'i' if instance.whole(SIGNED) else 'u'}{bits // 8}")


def _stored(instance: Instance, decompressor: Decompressor) -> np.ndarray:
    """The stored values (frames, rows, columns), before slope and intercept."""
    kind, shape = _kind(instance), (instance.count, *instance.shape)
    header = instance.header
    with instance.source.open() as file, zip_faults_as_damage():
        if header.syntax in _PLAIN:
            file.seek(header.offset)
            content = _uncompressed(file, header, prod(shape) * kind.itemsize, kind)
            values = np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
        else:
            values = _decompressed(instance, file, decompressor).reshape(shape)
    return values if kind.kind == "f" else _without_other_bits(values, instance)


def _uncompressed(file: BinaryIO, header: Header, size: int, kind: np.dtype) -> bytes:
    """The `size` bytes of the values, from the current place of the file on. The file is read to its end.

    Words of two bytes (OW) begin with their high byte in big endian, and their low byte holds the first of two pixels
    of one byte (PS3.5, 8.1.1). So the bytes of each pair are exchanged, also across rows and frames.
    """
    swapped = header.order == ">" and header.kind == b"OW" and kind.itemsize == 1
    need = size + size % 2 if swapped else size
    content = file.read(need)
    while file.read(_CHUNK_BYTES):  # the checksum of a zip's member follows its last byte
        pass
    if min(len(content), header.length) < need:
        raise Damaged("it ends inside its pixels")
    return np.frombuffer(content, np.uint16).byteswap().tobytes()[:size] if swapped else content


def _decompressed(instance: Instance, file: BinaryIO, decompressor: Decompressor) -> np.ndarray:
    """The values, from a copy of the file that has the pixels and their format only."""
    offset = instance.header.offset
    content = file.read(instance.source.size)
    length = fragments(BytesIO(content), len(content), offset)
    expected, kind = prod((instance.count, *instance.shape)), _kind(instance)
    try:
        stored = one_fragment_per_frame(content[offset : offset + length], instance.count)
        values = decompressor.values(_minimal(instance) + stored, expected * kind.itemsize)
    except CannotDecompress as error:
        raise Damaged(f"its pixels cannot be decompressed: {error}") from None
    if values.size != expected or values.dtype != kind:
        raise Damaged(f"{expected} values of {kind} are declared, {values.size} of {values.dtype} are stored")
    return values


def _minimal(instance: Instance) -> bytes:
    """A DICOM file up to the value of its pixel data: the format of the pixels, without slope and intercept."""
    syntax = instance.header.syntax
    bits = instance.whole(ALLOCATED)
    stored = instance.whole(STORED, bits)

    def element(tag: int, kind: bytes, value: bytes) -> bytes:
        value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(value)) + value

    def number(tag: int, value: int) -> bytes:
        return element(tag, b"US", struct.pack("<H", value))

    meta = b"".join(
        element(tag, b"UI", value.encode())
        for tag, value in ((0x00020002, _SECONDARY_CAPTURE), (0x00020003, "1.2"), (0x00020010, syntax))
    )
    rows, columns = instance.shape
    body = (
        element(CLASS, b"UI", _SECONDARY_CAPTURE.encode()),
        element(INSTANCE, b"UI", b"1.2"),
        number(SAMPLES, 1),
        element(PHOTOMETRIC, b"CS", b"MONOCHROME2"),
        element(FRAMES, b"IS", str(instance.count).encode()),
        number(ROWS, rows),
        number(COLUMNS, columns),
        number(ALLOCATED, bits),
        number(STORED, stored),
        number(HIGH_BIT, instance.whole(HIGH_BIT, stored - 1)),
        number(SIGNED, instance.whole(SIGNED)),
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED),
    )
    length = element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + b"".join(body)


@contextmanager
def _named(instance: Instance) -> Iterator[None]:
    """Turn `Damaged` into a `UserError` that names the file."""
    try:
        yield
    except Damaged as error:
        raise UserError(
            f"{instance.source.name} is truncated or damaged ({error}). Copy it again or remove it."
        ) from None


def _without_other_bits(values: np.ndarray, instance: Instance) -> np.ndarray:
    """The values of the stored bits alone. The others may hold an overlay."""
    bits = values.dtype.itemsize * 8
    stored = instance.whole(STORED, bits)
    high = instance.whole(HIGH_BIT, stored - 1)
    if stored == bits:
        return values
    return (values << (bits - 1 - high)) >> (bits - stored)
