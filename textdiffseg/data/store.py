"""Preprocessed cases on disk: arrays as b2nd files, and a JSON record that is written last.

`cases/<id>.image.b2nd` float16 (C, D, H, W) on the plan's grid, `<id>.labels.b2nd` label numbers (D, H, W) there,
`<id>.original.b2nd` label numbers on the file's own grid, `<id>.foreground.b2nd` a sample of foreground voxels, and
of known ones where some are ignored. Label numbers are 1..N, 0 background, -1 ignored; where labels overlap, arrays
hold the numbers of the values that labels are made of instead (`plans.regions`).
A case without its JSON record is not there.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import blosc2
import numpy as np

from plans.errors import UserError
from plans.geometry import Triple
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.records import Record
from textdiffseg.files import hash_text, write_atomically, write_record
from textdiffseg.preprocessing.case import TransformRecord

STORE_VERSION: Final = 2
FOREGROUND_SAMPLES = 2000  # voxels of each label whose places are stored
_SETTINGS = {"channels", "labels", "spacing", "crop_to_nonzero"}
_PARTS = ("image", "labels", "original", "foreground")
_CHUNK, _BLOCK = 128, 32  # voxels a side; a block is what one read decompresses


class CaseRecord(Record):
    """What is known of a stored case without opening its arrays."""

    version: Literal[2] = STORE_VERSION
    case: str
    hash: str  # of the input files, the group, the annotation and the settings
    settings: dict[str, str]  # a hash of each field of the plan that preprocessing reads (`preprocessing_settings`)
    shape: Triple  # on the plan's grid
    present: tuple[int, ...]  # labels that have voxels on the plan's grid
    annotated: tuple[int, ...]  # label numbers that were looked for by the annotator
    absent: tuple[int, ...] = ()  # label numbers that are known to be absent, whether looked for or not
    group: str | None = None
    trail: TransformRecord

    @property
    def known(self) -> tuple[int, ...]:
        """The labels of which it is known where they are: those annotated or declared absent, in label order."""
        return tuple(sorted({*self.annotated, *self.absent}))


@dataclass(frozen=True)
class StoredCase:
    """An open case. `image` and `labels` are read from disk where they are sliced."""

    record: CaseRecord
    image: blosc2.NDArray  # float16 (C, D, H, W)
    labels: blosc2.NDArray  # int8 or int16 (D, H, W)
    foreground: np.ndarray  # int32 (M, 4): rows (label, d, h, w), those of `sample_foreground`
    folder: Path

    def centres(self, foreground: bool) -> np.ndarray:
        """Rows of `foreground` on one of which a patch is centred; none where it may lie anywhere.

        A patch without foreground must still hold a known voxel where some are ignored (nnU-Net's rule).
        """
        held = self.foreground[:, 0] > 0
        return self.foreground[held if foreground and held.any() else ~held]

    def original_labels(self) -> np.ndarray:
        """Label numbers (D, H, W) on the file's own grid."""
        return _open(_path(self.folder, self.record.case, "original"))[...]


def save_case(
    folder: Path, record: CaseRecord, image: np.ndarray, labels: np.ndarray, original_labels: np.ndarray
) -> None:
    """Write a case below `folder`/cases; on any failure, a full disk included, no part of it stays."""
    folder = PreprocessedFolder(Path(folder)).cases
    folder.mkdir(parents=True, exist_ok=True)
    kind = np.int8 if original_labels.max(initial=0) < 128 else np.int16
    arrays = (
        image.astype(np.float16),
        labels.astype(kind),
        original_labels.astype(kind),
        sample_foreground(labels, record.case),
    )
    remove_case(folder.parent, record.case)
    try:
        for part, array in zip(_PARTS, arrays, strict=True):
            _write(_path(folder, record.case, part), array)
        write_record(_record_path(folder, record.case), record)
    except BaseException:
        remove_case(folder.parent, record.case)
        raise


def open_case(folder: Path, case: str) -> StoredCase:
    """Open the case `case` below `folder`/cases; `UserError` if it is not there or damaged."""
    cases, record = PreprocessedFolder(Path(folder)).cases, read_record(folder, case)
    try:
        image, labels, _, foreground = (_open(_path(cases, case, part)) for part in _PARTS)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{cases}: stored case {case} cannot be opened ({error}). Run tds_plan_and_preprocess again."
        ) from None
    return StoredCase(record, image, labels, foreground[...], cases)


def read_record(folder: Path, case: str) -> CaseRecord:
    """The record of the case `case` below `folder`/cases; `UserError` if it is not there or damaged."""
    try:
        return CaseRecord.read(_record_path(PreprocessedFolder(Path(folder)).cases, case))
    except UserError as error:
        raise UserError(*(f"{line} Run tds_plan_and_preprocess again." for line in error.lines)) from None


def check_cases(folder: Path, cases: Sequence[str], plan: Plan) -> None:
    """Raise `UserError` with every case that cannot be opened or was not stored by this plan."""
    faults: list[str] = []
    for case in cases:
        try:
            faults += _misfits(open_case(folder, case), plan)
        except UserError as error:
            faults += error.lines
    if faults:
        raise UserError(*faults)


def is_complete(folder: Path, case: str, expected_hash: str) -> bool:
    """Whether the case is stored whole and came from the same files and settings."""
    cases = PreprocessedFolder(Path(folder)).cases
    try:
        record = CaseRecord.read(_record_path(cases, case))
    except UserError:
        return False
    return record.hash == expected_hash and all(_path(cases, case, part).is_file() for part in _PARTS)


def preprocessing_settings(plan: Plan) -> dict[str, str]:
    """A hash of each field of the plan that decides what is stored, by the field's name."""
    fields = plan.model_dump(mode="json", include=_SETTINGS | ({"regions"} if plan.regions else set()))
    return {name: hash_text(json.dumps(value, sort_keys=True))[:12] for name, value in sorted(fields.items())}


def list_cases(folder: Path) -> tuple[str, ...]:
    """The ids of the cases stored whole below `folder`/cases, sorted."""
    return tuple(sorted(path.stem for path in PreprocessedFolder(Path(folder)).cases.glob("[!.]*.json")))


def remove_case(folder: Path, case: str) -> None:
    """Delete a stored case, its record first, so that it never looks complete."""
    cases = PreprocessedFolder(Path(folder)).cases
    _record_path(cases, case).unlink(missing_ok=True)
    for part in _PARTS:
        _path(cases, case, part).unlink(missing_ok=True)


def sample_foreground(labels: np.ndarray, case: str) -> np.ndarray:
    """Up to `FOREGROUND_SAMPLES` voxels of each label: int32 rows (label, d, h, w); the same for the same case.

    Where voxels are ignored, as many background voxels too.
    """
    least = 0 if labels.min(initial=0) < 0 else 1
    places = np.flatnonzero(labels >= least)
    values = labels.ravel()[places]
    order = np.argsort(values, kind="stable")
    places, values = places[order], values[order]
    numbers, starts = np.unique(values, return_index=True)
    rng = np.random.default_rng([len(labels.shape), *case.encode()])
    rows = []
    for number, group in zip(numbers, np.split(places, starts)[1:], strict=True):
        if len(group) > FOREGROUND_SAMPLES:
            group = np.sort(rng.choice(group, FOREGROUND_SAMPLES, replace=False))
        rows.append(np.column_stack([np.full(len(group), number), *np.unravel_index(group, labels.shape)]))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 4), np.int32)


def _misfits(case: StoredCase, plan: Plan) -> list[str]:
    wanted = preprocessing_settings(plan)
    known = case.record.settings
    fields = ", ".join(field for field in sorted(wanted | known) if known.get(field) != wanted.get(field))
    if not fields:
        return []
    return [
        f"{case.folder}: case {case.record.case} was stored by a plan with other {fields}. Put the plan back, or run "
        "tds_plan_and_preprocess again."
    ]


def _record_path(cases: Path, case: str) -> Path:
    return cases / f"{case}.json"


def _path(folder: Path, case: str, part: str) -> Path:
    return folder / f"{case}.{part}.b2nd"


def _open(path: Path) -> blosc2.NDArray:
    """A plain array. Safe mode refuses files that carry an expression, Python source or a link: they could run code."""
    mapped = {"mmap_mode": "r"} if os.name == "posix" else {}  # a third faster for random patches
    array = blosc2.open(str(path), mode="r", deserialize="safe", dparams=blosc2.DParams(nthreads=1), **mapped)
    if type(array) is not blosc2.NDArray:
        raise ValueError(f"{path.name} holds a {type(array).__name__}, expected a plain array")
    return array


def _write(path: Path, array: np.ndarray) -> None:
    """Compress in memory, write under a temporary name, rename."""
    chunks = tuple(1 if array.ndim == 4 and axis == 0 else min(size, _CHUNK) for axis, size in enumerate(array.shape))
    blocks = tuple(min(size, _BLOCK) for size in chunks)
    if array.ndim == 2:
        chunks = blocks = array.shape
    codec = blosc2.CParams(
        codec=blosc2.Codec.LZ4HC, clevel=1, filters=[blosc2.Filter.SHUFFLE], typesize=array.itemsize, nthreads=1
    )
    stored = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=codec)
    write_atomically(path, stored.to_cframe())
