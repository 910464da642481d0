"""Maps of a scan on the plan's grid, e.g. of probabilities, which arrive slab by slab."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from plans.file_names import safe_name
from plans.geometry import Triple
from textdiffseg.files import naming


class Maps:
    """Maps (D, H, W) float32 by name, in memory or in the files of a folder.

    In a folder, they take no more memory than a slab, and as much disk space as they would take memory.
    """

    def __init__(self, shape: Triple, folder: Path | None = None):
        self._shape, self._folder = shape, folder
        self._arrays: dict[str, np.ndarray] = {}
        self._files: dict[str, Path] = {}

    def add(self, name: str, first: int, planes: np.ndarray) -> None:
        """Add the next planes (D, H, W) of a map. `first`: the place of the first one along D."""
        if self._folder is None:
            array = self._arrays.setdefault(name, np.zeros(self._shape, np.float32))
            array[first : first + len(planes)] = planes
            return
        path = self._files.setdefault(name, self._folder / f"{len(self._files)}.raw")
        with naming(self._folder.parent), path.open("ab") as file:
            file.write(np.ascontiguousarray(planes, np.float32).data)

    def finish(self) -> Mapping[str, np.ndarray]:
        """The maps by name, by folder in alphabetical order. Those in files are opened when they are used."""
        order = sorted({**self._arrays, **self._files}, key=lambda name: name.partition("/")[0])
        if self._folder is None:
            return {name: self._arrays[name] for name in order}
        return _FileMaps({name: self._files[name] for name in order}, self._shape)


class _FileMaps(Mapping[str, np.ndarray]):
    """Maps (D, H, W) float32 in files. No file stays open."""

    def __init__(self, files: Mapping[str, Path], shape: Triple):
        self._files, self._shape = files, shape

    def __getitem__(self, name: str) -> np.ndarray:
        return np.memmap(self._files[name], np.float32, "r", shape=self._shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def probability_map(names: Sequence[str], name: str) -> str:
    """The name of a label's map of probabilities, e.g. `probabilities/1_liver`."""
    return f"probabilities/{names.index(name) + 1}_{safe_name(name)}"
