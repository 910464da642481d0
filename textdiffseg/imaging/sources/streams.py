"""Bytes of a file, decompressed while they are read and checked to the end. Nothing is unpacked into another file.

A header may declare any size. It is compared with the size of the file before memory is taken.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from plans.errors import UserError

GZIP = b"\x1f\x8b"
MAX_RATIO = 1032  # of deflate: 258 bytes in two bits
MAX_TRAILING_BYTES = 1 << 24  # behind the voxels in a compressed stream, read to reach its checksum
_READ = 1 << 18  # compressed bytes at a time
_PART = 1 << 22  # decompressed bytes at a time
_SPARE = 1 << 16  # bytes at a time that nobody needs


class Damaged(Exception):
    """What is wrong with the bytes of a file."""


class Stream:
    """A file's bytes from where it stands; decompressed where `packed` (gzip in one or more members, or zlib)."""

    def __init__(self, file: BinaryIO, packed: bool):
        self._file, self._waiting = file, b""  # `_waiting`: read, not yet given to the unpacker
        self._unpacker = zlib.decompressobj(47) if packed else None  # 47: either header, checksum compared

    def fill(self, target: memoryview) -> int:
        """Fill `target`; returns the number of bytes, fewer only at the end. Raises `Damaged`."""
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

    def finish(self) -> None:
        """Compare the checksums of a compressed stream. Raises `Damaged`, also where much more follows."""
        if self._unpacker is None:
            return
        spare, left = memoryview(bytearray(_SPARE)), MAX_TRAILING_BYTES
        while count := self.fill(spare):
            left -= count
            if left < 0:
                raise Damaged(f"more than {MAX_TRAILING_BYTES >> 20} MB follow the voxels that its header declares")

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
        """Whether another gzip member follows; zeros may follow the last one."""
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
    """`Damaged` becomes a `UserError` that names the file."""
    try:
        yield
    except Damaged as error:
        raise UserError(f"{path} is truncated or damaged ({error}). Copy it again or remove it.") from None


def check_declared(size: int, held: int, packed: bool) -> None:
    """Raise `Damaged` where `held` bytes of a file cannot hold the `size` bytes that its header declares."""
    if size > held * (MAX_RATIO if packed else 1):
        raise Damaged(f"its header declares {size} bytes of voxels, and {held} bytes of the file cannot hold them")


def read_voxels(stream: Stream, shape: tuple[int, ...], kind: np.dtype, held: int, packed: bool) -> np.ndarray:
    """The next voxels of a stream, in C order; `held`: bytes of the file that are left. Raises `Damaged`."""
    size = prod(shape) * kind.itemsize
    check_declared(size, held, packed)
    voxels = np.empty(size, np.uint8)
    found = stream.fill(voxels.data)
    if found < size:
        raise Damaged(f"{found} of {size} bytes of voxels")
    stream.finish()
    return voxels.view(kind).reshape(shape)
