"""The voxels that a NRRD or MetaImage header declares. They are checked before ITK reads the file.

ITK's readers crash on some long lines, read any file that a header names, and allocate the memory that it declares.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.sources.numerals import real_number
from textdiffseg.imaging.sources.streams import MAX_RATIO, Damaged, Stream, read_voxels, reported_as_damage

MAX_HEADER_BYTES = 1 << 20
MAX_AXES = 16
MAX_WORD_BYTES = 400  # of a value that is stored as text; the largest double has 309 digits
_PART = 1 << 12  # values that are converted at once
NO_SPACING = "Its header does not hold a spacing. 1 mm along each axis was taken."
NO_ORIENTATION = (
    "Its header does not hold the orientation. Axes to the patient's left, back and head were taken: left and right "
    "may be exchanged."
)
_NOT_MM = {
    "m", "metre", "metres", "meter", "meters", "dm", "cm", "centimetre", "centimetres", "centimeter", "centimeters",
    "um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometre", "micrometres", "micrometer", "micrometers",
    "nm", "nanometre", "nanometres", "nanometer", "nanometers", "in", "inch", "inches", "ft", "foot", "feet",
    "km", "kilometre", "kilometres", "kilometer", "kilometers", "px", "pixel", "pixels", "voxel", "voxels",
}  # fmt: skip


def header_lines(content: bytes, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """The lines from byte `start` on, without their ends. Each comes with the position behind it."""
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end], end + 1
        start = end + 1


@dataclass(frozen=True)
class VoxelBlock:
    """The place of a file's voxels, and their storage."""

    path: Path  # of the file with the voxels
    offset: int  # bytes before them
    sizes: tuple[int, ...]  # of all axes, the fastest first
    dtype: np.dtype
    compressed: bool  # by gzip or zlib
    text: bool = False  # stored as digits
    notes: tuple[str, ...] = ()  # what the header leaves open about the place in space
    channels_first: bool = False  # the first of `sizes` is the number of channels; False: it may be any axis
    scale: tuple[float, float] = (1.0, 0.0)  # slope and intercept: stored values -> values

    @property
    def count(self) -> int:
        """The number of values."""
        return prod(self.sizes)

    def read(self) -> np.ndarray:
        """The stored values, with the slowest axis first. Raises `UserError` for a damaged file."""
        with reported_as_damage(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            if self.text:
                return _numbers(file.read(), self.dtype.newbyteorder("="), self.count).reshape(self.sizes[::-1])
            stream = Stream(file, self.compressed)
            values = read_voxels(stream, self.sizes[::-1], self.dtype, self._held(), self.compressed)
        return values if self.dtype.isnative else values.astype(self.dtype.newbyteorder("="))

    def check_size(self) -> None:
        """Raise `UserError` if the file is too small for the declared values."""
        with reported_as_damage(self.path):
            held = self._held()
            least = 2 * self.count - 1 if self.text else self.count * self.dtype.itemsize
            if least > held * (MAX_RATIO if self.compressed else 1):
                raise Damaged(
                    f"its header declares {self.count} values, but {held} bytes of the file cannot store them"
                )

    def _held(self) -> int:
        return self.path.stat().st_size - self.offset


def _numbers(text: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """The `count` numbers of a text, between white space or commas. Raises `Damaged`."""
    words = text.replace(b",", b" ").split()
    if len(words) != count:
        raise Damaged(f"{len(words)} of {count} values")
    if (longest := max(map(len, words))) > MAX_WORD_BYTES:
        raise Damaged(f"a value has {longest} characters, expected at most {MAX_WORD_BYTES}")
    values = np.empty(count, dtype)
    try:
        if b"_" in text:  # NumPy reads 1_0 as 10
            raise ValueError
        for start in range(0, count, _PART):  # an array of texts is as wide as its longest text
            values[start : start + _PART] = np.array(words[start : start + _PART]).astype(dtype)
        return values
    except (ValueError, OverflowError):
        raise Damaged(f"its values are not all numbers of type {dtype}") from None


def real_numbers(text: str) -> tuple[float, ...]:
    """The numbers of a field; a word that is not a number becomes NaN."""

    def number(word: str) -> float:
        try:
            return real_number(word)
        except ValueError:
            return math.nan

    return tuple(number(word) for word in text.split())


def refuse_units(units: Iterable[str], path: Path) -> None:
    """Raise `UserError` for a unit of length that is not mm."""
    if odd := [unit for unit in units if unit.strip().lower() in _NOT_MM]:
        raise UserError(f"{path}: its unit of length is {odd[0]!r:.40}, expected mm. Convert its spacing and origin.")


def wrong_spacing(path: Path, field: str, text: str) -> UserError:
    """The error for a field that does not hold a spacing along each axis."""
    return UserError(
        f"{path}: {field}: expected a spacing above 0 along each axis, found {text[:40]!r}. Write it in mm."
    )


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
