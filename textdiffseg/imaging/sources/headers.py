"""The voxels that a NRRD or MetaImage header declares. They are checked before ITK reads the file.

ITK's readers crash on some long lines, read any file that a header names, and allocate the memory that it declares.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from textdiffseg.imaging.sources.streams import MAX_RATIO, Damaged, Stream, read_voxels, reported_as_damage

MAX_HEADER_BYTES = 1 << 20
MAX_AXES = 16


@dataclass(frozen=True)
class VoxelBlock:
    """The place of a file's voxels, and their storage."""

    path: Path  # of the file with the voxels
    offset: int  # bytes before them
    sizes: tuple[int, ...]  # of all axes, the fastest first
    kind: np.dtype
    packed: bool  # compressed, by gzip or zlib
    text: bool = False  # stored as digits
    plain: bool = True  # the stored values are the voxels' values, without a scaling function

    @property
    def count(self) -> int:
        """The number of values."""
        return prod(self.sizes)

    def read(self) -> np.ndarray:
        """The values, with the slowest axis first. Raises `UserError` for a damaged file."""
        with reported_as_damage(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            held = self._held()
            values = read_voxels(Stream(file, self.packed), self.sizes[::-1], self.kind, held, self.packed)
        return values if self.kind.isnative else values.astype(self.kind.newbyteorder("="))

    def check_size(self) -> None:
        """Raise `UserError` if the file is too small for the declared values."""
        with reported_as_damage(self.path):
            held = self._held()
            least = 2 * self.count - 1 if self.text else self.count * self.kind.itemsize
            if least > held * (MAX_RATIO if self.packed else 1):
                raise Damaged(
                    f"its header declares {self.count} values, but {held} bytes of the file cannot store them"
                )

    def _held(self) -> int:
        return self.path.stat().st_size - self.offset


def first_bytes(path: Path) -> bytes:
    """The first `MAX_HEADER_BYTES` of a file."""
    with path.open("rb") as file:
        return file.read(MAX_HEADER_BYTES)


def whole_numbers(text: str, field: str, most: int = MAX_AXES) -> tuple[int, ...]:
    """The whole numbers of at least 1 in a field. Raises `Damaged` for anything else."""
    words = text.split()
    if not 1 <= len(words) <= most or not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
        raise Damaged(f"{field}: expected whole numbers, found {text[:40]!r}")
    numbers = tuple(int(word) for word in words)
    if min(numbers) < 1:
        raise Damaged(f"{field}: expected numbers of at least 1, found {text[:40]!r}")
    return numbers
