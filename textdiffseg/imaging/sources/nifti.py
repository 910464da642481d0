"""Is a NIfTI file whole, and are its values finite?

ITK fills what is missing of a NIfTI file with zeros, and replaces NaN by zero, and says nothing. Other formats it
refuses when they are truncated, and reads as they are.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from plans.errors import UserError

_HEADER = 544  # bytes that hold a header of either version
_CHUNK = 1 << 22
_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class _Layout:
    """Where the voxels of a NIfTI file lie and how they are stored."""

    offset: int
    bytes: int
    floats: str | None  # numpy's name of the type, for types that can hold NaN


def check_nifti(path: Path, unpacked: IO[bytes] | None = None) -> None:
    """Raise `UserError` for a truncated or damaged NIfTI file, or for values that are not finite.

    Files of other formats pass. The file's bytes, decompressed, are written to `unpacked` on the way.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    with _told_as_damage(path), gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        header = file.read(_HEADER)
        layout = _layout(header)
        if layout is None:
            raise EOFError("no NIfTI header")
        size, bad = _scan(file, header, layout, unpacked)
        if size < layout.offset + layout.bytes:
            raise EOFError(f"{size} of {layout.offset + layout.bytes} bytes")
    if bad:
        raise UserError(f"{path}: {bad} voxels are NaN or infinite. Replace them by finite values.")


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}). Copy it again or remove it.") from None


def _scan(file: BufferedIOBase, header: bytes, layout: _Layout, unpacked: IO[bytes] | None) -> tuple[int, int]:
    """Read to the end: the file's size in bytes, and how many of its values are not finite."""
    if layout.offset > len(header):
        header += file.read(layout.offset - len(header))
    size, bad, begun = len(header), 0, header[layout.offset :]
    if unpacked:
        unpacked.write(header[: layout.offset])
    while chunk := begun + file.read(_CHUNK - len(begun)):
        size += len(chunk) - len(begun)
        if unpacked:
            unpacked.write(chunk)
        if layout.floats:
            whole = len(chunk) // np.dtype(layout.floats).itemsize
            values = np.frombuffer(chunk, dtype=layout.floats, count=whole)
            bad += int(np.count_nonzero(~np.isfinite(values)))
        begun = b""
    return size, bad


def _layout(header: bytes) -> _Layout | None:
    """Of a NIfTI-1 or -2 file; None if it is none."""
    if len(header) < 352:
        return None
    for order in "<>":
        (size_of_header,) = struct.unpack_from(order + "i", header, 0)
        if size_of_header == 348:
            dimensions = struct.unpack_from(order + "8h", header, 40)
            kind, bits = struct.unpack_from(order + "2h", header, 70)
            (offset,) = struct.unpack_from(order + "f", header, 108)
        elif size_of_header == 540 and len(header) >= _HEADER:
            dimensions = struct.unpack_from(order + "8q", header, 16)
            kind, bits = struct.unpack_from(order + "2h", header, 12)
            (offset,) = struct.unpack_from(order + "q", header, 168)
        else:
            continue
        sizes = dimensions[1 : 1 + max(0, min(7, dimensions[0]))]
        floats = order + _FLOATS[kind] if kind in _FLOATS else None
        return _Layout(int(offset), prod(max(1, size) for size in sizes) * bits // 8, floats)
    return None
