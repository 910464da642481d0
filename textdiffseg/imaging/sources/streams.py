"""The bytes of a file, decompressed while they are read, and checked to the end. No temporary file is needed.

A header may declare any size. The size is compared with that of the file before memory is allocated.
"""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.sources.formats import GZIP, START_BYTES, wrong_ending

MAX_RATIO = 1032  # of deflate, which can store 258 bytes in two bits
MAX_TRAILING_BYTES = 1 << 24  # after the voxels; they are read to reach the checksum of a compressed stream
# Bytes per step.
_READ = 1 << 18  # compressed
_PART = 1 << 22  # decompressed
_SPARE = 1 << 16  # skipped
# A name that is not UTF-8 is a ValueError. A place beyond 2**63 is an OverflowError.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OverflowError)


class Damaged(Exception):
    """A fault in the bytes of a file."""


class Stream:
    """A file's bytes from its current position. Compressed ones are unpacked (zlib, or gzip with several members)."""

    def __init__(self, file: BinaryIO, compressed: bool):
        self._file, self._waiting = file, b""  # `_waiting`: bytes that were read but not unpacked
        # 47: accept gzip and zlib, and check the checksum
        self._unpacker = zlib.decompressobj(47) if compressed else None

    def fill(self, target: memoryview) -> int:
        """Fill `target`. Returns the number of bytes, which is smaller only at the end. Raises `Damaged`."""
        done = 0
        while done < len(target):
            count = self._some(target[done:])
            if not count:
                break
            done += count
        return done

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end. Raises `Damaged`."""
        target = bytearray(size)
        return bytes(target[: self.fill(memoryview(target))])

    def finish(self, slice_bytes: int) -> None:
        """Read to the end. Raises `Damaged` for a wrong checksum, or where more voxels follow than were declared.

        Some programs write a few bytes, or zeros, after the voxels. These are skipped.
        """
        spare, follow, empty = memoryview(bytearray(_SPARE)), 0, True
        while count := self.fill(spare):
            follow += count
            empty = empty and not bytes(spare[:count]).strip(b"\0")
            if follow > MAX_TRAILING_BYTES:
                raise Damaged(f"more than {MAX_TRAILING_BYTES >> 20} MB follow the declared voxels")
        if follow >= slice_bytes and not empty:
            raise Damaged(f"{follow} bytes with values follow the voxels that its header declares")

    def _some(self, target: memoryview) -> int:
        if self._unpacker is None:
            return self._file.readinto(target) or 0  # type: ignore[attr-defined]
        while True:
            if self._unpacker.eof and not self._next_member():
                return 0
            packed = self._unpacker.unconsumed_tail or self._waiting or self._file.read(_READ)
            self._waiting = b""
            try:
                part = self._unpacker.decompress(packed, min(len(target), _PART))
            except zlib.error as error:
                raise Damaged(str(error)) from None
            if part:
                target[: len(part)] = part
                return len(part)
            if not packed and not self._unpacker.eof:
                raise Damaged("the compressed stream ends too early")

    def _next_member(self) -> bool:
        """Whether another gzip member follows. Zeros may follow the last one."""
        assert self._unpacker is not None
        rest = self._unpacker.unused_data.lstrip(b"\0")
        while len(rest) < len(GZIP) and (more := self._file.read(_READ)):
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return False
        if not rest.startswith(GZIP):
            raise Damaged("other bytes follow the compressed stream")
        self._unpacker, self._waiting = zlib.decompressobj(47), rest
        return True


@contextmanager
def reported_as_damage(path: Path) -> Iterator[None]:
    """Turn `Damaged` into a `UserError` that names the file, or the format that it has instead of its ending's."""
    try:
        yield
    except Damaged as error:
        if path.is_file():
            with path.open("rb") as file:
                line = wrong_ending(str(path), file.read(START_BYTES))
            if line:
                raise UserError(line) from None
        raise UserError(f"{path} is truncated or damaged ({error}). Copy it again or remove it.") from None


@contextmanager
def zip_faults_as_damage() -> Iterator[None]:
    """Turn the errors of a zip into `Damaged`. Those of the file system stay as they are."""
    try:
        yield
    except (*_ZIP_FAULTS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # without a number: from bz2
            raise
        raise Damaged(str(error) or "its compressed data end too early") from None


def check_declared(size: int, held: int, compressed: bool) -> None:
    """Raise `Damaged` where `held` bytes of a file cannot hold the `size` bytes that its header declares."""
    if size > held * (MAX_RATIO if compressed else 1):
        raise Damaged(f"its header declares {size} bytes of voxels, and {held} bytes of the file cannot hold them")


def read_voxels(stream: Stream, shape: tuple[int, ...], dtype: np.dtype, held: int, compressed: bool) -> np.ndarray:
    """The next voxels of a stream, in C order. `held`: bytes that are left in the file. Raises `Damaged`."""
    size = prod(shape) * dtype.itemsize
    check_declared(size, held, compressed)
    voxels = np.empty(size, np.uint8)
    found = stream.fill(voxels.data)
    if found < size:
        raise Damaged(f"{found} of {size} bytes of voxels")
    stream.finish(prod(shape[-2:]) * dtype.itemsize)
    return voxels.view(dtype).reshape(shape)
