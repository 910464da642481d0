"""The array files of stored cases (b2nd, compressed in blocks). Values are checked when they are read."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import blosc2
import numpy as np

from plans.errors import UserError
from textdiffseg.files import FileHash, write_atomically
from textdiffseg.preprocessing.case import IGNORED

ARRAYS = ("image", "labels", "original", "foreground")
ARRAYS_OF_REFERENCE = ("labels", "original")  # each reference has its own
RUN_AGAIN = "Run tds_plan_and_preprocess again."
CHUNK_VOXELS, BLOCK_VOXELS = 128, 32  # edge lengths; one read decompresses whole blocks


def array_names(references: int) -> tuple[str, ...]:
    """The names of the arrays of a case with this number of references."""
    return (*ARRAYS, *(reference_array(name, index) for index in range(1, references) for name in ARRAYS_OF_REFERENCE))


def reference_array(name: str, index: int) -> str:
    """The name of an array of a reference, e.g. `labels_2` of the second one. `index`: of the reference, from 0."""
    return f"{name}_{index + 1}" if index else name


def array_path(cases: Path, case: str, name: str) -> Path:
    """The file of an array of a case."""
    return cases / f"{case}.{name}.b2nd"


@dataclass(frozen=True)
class CheckedArray:
    """An array on disk that is read when it is sliced. Raises `UserError` if a value that is read is not valid."""

    array: blosc2.NDArray
    fault_of: Callable[[np.ndarray], str | None]
    where: str  # the folder and the case, in messages

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.array.dtype

    def __getitem__(self, box: EllipsisType | tuple[slice, ...]) -> np.ndarray:
        """The values in a box, one slice per axis."""
        values: np.ndarray = self.array[box]
        refuse_damaged(self.fault_of(values), self.where)
        return values


def refuse_damaged(fault: str | None, where: str) -> None:
    """Raise `UserError` if there is a fault of the stored case at `where`."""
    if fault is not None:
        raise UserError(f"{where} is damaged ({fault}). {RUN_AGAIN}")


def open_array(path: Path) -> blosc2.NDArray:
    """The array in a file. `ValueError` if the file holds another object.

    Safe mode refuses files with an expression, Python source or a link. Such files could run code.
    """
    mapped = {"mmap_mode": "r"} if os.name == "posix" else {}  # a third faster for random patches
    array = blosc2.open(str(path), mode="r", deserialize="safe", dparams=blosc2.DParams(nthreads=1), **mapped)
    if type(array) is not blosc2.NDArray:
        raise ValueError(f"{path.name} holds a {type(array).__name__}, expected a plain array")
    return array


def write_array(path: Path, array: np.ndarray) -> FileHash:
    """The size and hash of the file that is written. It is compressed in memory, then written whole or not at all."""
    chunks = tuple(
        1 if array.ndim == 4 and axis == 0 else min(size, CHUNK_VOXELS) for axis, size in enumerate(array.shape)
    )
    blocks = tuple(min(size, BLOCK_VOXELS) for size in chunks)
    if array.ndim == 2:
        chunks = blocks = array.shape
    codec = blosc2.CParams(
        codec=blosc2.Codec.LZ4HC, clevel=1, filters=[blosc2.Filter.SHUFFLE], typesize=array.itemsize, nthreads=1
    )
    compressed = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=codec)
    content = compressed.to_cframe()
    write_atomically(path, content)
    return FileHash.of(content)


def shape_fault(array: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
    """The fault of an array whose shape differs from its record, or None."""
    return None if shape == expected else f"the shape of {array} is {shape}, its record expects {expected}"


def image_fault(values: np.ndarray) -> str | None:
    """The fault of image values that are not finite, or None."""
    return None if np.isfinite(values).all() else "its image holds numbers that are not finite"


def label_fault(max_label: int, values: np.ndarray) -> str | None:
    """The fault of label numbers outside `IGNORED` to `max_label`, or None."""
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest >= IGNORED and highest <= max_label:
        return None
    return f"its labels hold number {highest if highest > max_label else lowest}, expected {IGNORED} to {max_label}"
