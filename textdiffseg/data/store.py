"""Preprocessed cases on disk: arrays as b2nd files, and a JSON record that is written last.

`cases/<id>.image.b2nd` float16 (C, D, H, W) on the plan's grid, `<id>.labels.b2nd` label numbers (D, H, W) there,
`<id>.original.b2nd` label numbers on the file's own grid, `<id>.foreground.b2nd` a sample of foreground voxels, and
of known ones where some are ignored. Label numbers are 1..N, 0 background, -1 ignored; where labels overlap, arrays
hold the numbers of the values that labels are made of instead (`plans.regions`).
A case without its JSON record is not there. The record holds size and hash of each array's file, which are checked
once per process before the file is used.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Annotated, ClassVar, Final, Literal

import blosc2
import numpy as np
from pydantic import Field

from plans.errors import UserError, merged
from plans.geometry import Shape
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.records import Fields, Record, Upgrades
from textdiffseg.files import FileHash, hash_text, write_atomically, write_record
from textdiffseg.preprocessing.case import IGNORED, TransformRecord
from textdiffseg.resources import cores

STORE_VERSION: Final = 3
FOREGROUND_SAMPLES = 2000  # voxels of each label whose places are stored
_SETTINGS = {"channels", "labels", "spacing", "crop_to_nonzero"}
_PARTS = ("image", "labels", "original", "foreground")
_CHUNK, _BLOCK = 128, 32  # voxels a side; a block is what one read decompresses
MAX_READERS = 8  # files read at a time; more make a disk slower
_AGAIN = "Run tds_plan_and_preprocess again."


def _without_hashes(fields: Fields) -> Fields:
    """Version 2 had no hashes, and called the transform `trail`."""
    fields["transform"] = fields.pop("trail")
    return fields | {"files": {}}


MAX_LABELS = 32767  # of int16
LabelNumber = Annotated[int, Field(ge=1, le=MAX_LABELS)]


class CaseRecord(Record):
    """What is known of a stored case without opening its arrays."""

    version: Literal[3] = STORE_VERSION
    case: str
    hash: str  # of the input files, the group, the annotation and the settings
    settings: dict[str, str]  # a hash of each field of the plan that preprocessing reads (`preprocessing_settings`)
    shape: Shape  # on the plan's grid
    present: tuple[LabelNumber, ...]  # labels that have voxels on the plan's grid
    annotated: tuple[LabelNumber, ...]  # label numbers that were looked for by the annotator
    absent: tuple[LabelNumber, ...] = ()  # label numbers that are known to be absent, whether looked for or not
    group: str | None = None
    transform: TransformRecord
    files: dict[str, FileHash] = Field(default_factory=dict)  # by array; empty: stored before they were noted

    upgrades: ClassVar[Upgrades] = {2: _without_hashes}

    @property
    def known(self) -> tuple[int, ...]:
        """The labels of which it is known where they are: those annotated or declared absent, in label order."""
        return tuple(sorted({*self.annotated, *self.absent}))


@dataclass(frozen=True)
class CheckedArray:
    """An array on disk, read where it is sliced. `UserError` names the case where a value is none that is stored."""

    array: blosc2.NDArray
    fault_of: Callable[[np.ndarray], str | None]
    refuse: Callable[[str | None], None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along the axes."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The type of its values."""
        return self.array.dtype

    def __getitem__(self, box: EllipsisType | tuple[slice, ...]) -> np.ndarray:
        """The part of a box."""
        found: np.ndarray = self.array[box]
        self.refuse(self.fault_of(found))
        return found


@dataclass(frozen=True)
class StoredCase:
    """An open case. `image`, `labels` and `original` are read from disk where they are sliced."""

    record: CaseRecord
    image: CheckedArray  # float16 (C, D, H, W)
    labels: CheckedArray  # int8 or int16 (D, H, W)
    foreground: np.ndarray  # int32 (M, 4): rows (label, d, h, w), those of `sample_foreground`
    folder: Path
    numbers: int  # the largest label number

    def centres(self, foreground: bool) -> np.ndarray:
        """Rows of `foreground` on one of which a patch is centred; none where it may lie anywhere.

        A patch without foreground must still hold a known voxel where some are ignored (nnU-Net's rule).
        """
        held = self.foreground[:, 0] > 0
        return self.foreground[held if foreground and held.any() else ~held]

    def original_labels(self) -> np.ndarray:
        """Label numbers (D, H, W) on the file's own grid."""
        refuse = partial(_refuse, self.folder, self.record)
        stored = _open_part(self.folder, self.record, "original")
        refuse(_shape_fault("original", stored.shape, self.record.transform.original_shape))
        return CheckedArray(stored, partial(_label_fault, self.numbers), refuse)[...]


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
        files = {
            part: _write(_path(folder, record.case, part), array) for part, array in zip(_PARTS, arrays, strict=True)
        }
        write_record(_record_path(folder, record.case), record.model_copy(update={"files": files}))
    except BaseException:
        remove_case(folder.parent, record.case)
        raise


def open_case(folder: Path, case: str, plan: Plan | None = None) -> StoredCase:
    """Open the case `case` below `folder`/cases; `UserError` if it is not there or damaged.

    plan: decides which label numbers may be read; None: any.
    """
    cases, record = PreprocessedFolder(Path(folder)).cases, read_record(folder, case)
    refuse = partial(_refuse, cases, record)
    image, labels, foreground = (_open_part(cases, record, part) for part in ("image", "labels", "foreground"))
    refuse(_shape_fault("image", image.shape, (image.shape[0], *record.shape)))
    refuse(_shape_fault("labels", labels.shape, record.shape))
    refuse(_shape_fault("foreground", foreground.shape, (foreground.shape[0], 4)))
    numbers = MAX_LABELS if plan is None else max(map(max, plan.parts))
    return StoredCase(
        record=record,
        image=CheckedArray(image, _image_fault, refuse),
        labels=CheckedArray(labels, partial(_label_fault, numbers), refuse),
        foreground=foreground[...],
        folder=cases,
        numbers=numbers,
    )


def read_record(folder: Path, case: str) -> CaseRecord:
    """The record of the case `case` below `folder`/cases; `UserError` if it is not there or damaged."""
    path = _record_path(PreprocessedFolder(Path(folder)).cases, case)
    try:
        record = CaseRecord.read(path)
    except UserError as error:
        raise UserError(*(f"{line} {_AGAIN}" for line in error.lines)) from None
    if record.case != case:
        raise UserError(f"{path}: case: it is the record of {record.case!r}, expected {case!r}. {_AGAIN}")
    return record


def check_cases(
    folder: Path, cases: Sequence[str], plan: Plan, progress: Callable[[int, int], None] | None = None
) -> None:
    """Raise `UserError` with every case that is missing, damaged, or was not stored by this plan.

    All files are read once, several at a time, so that a damaged one is found before the work starts.
    """
    faults: list[tuple[str, str]] = []
    with ThreadPoolExecutor(min(MAX_READERS, cores())) as readers:
        read = readers.map(partial(_read_through, folder), cases)
        for done, (case, _) in enumerate(zip(cases, read, strict=True), start=1):
            try:
                stored = open_case(folder, case)
                _open_part(stored.folder, stored.record, "original")
                faults += [(case, line) for line in _misfits(stored, plan)]
            except UserError as error:
                faults += [(case, line) for line in error.lines]
            if progress:
                progress(done, len(cases))
    if faults:
        raise UserError(*merged(faults))


def _read_through(folder: Path, case: str) -> None:
    """Check the hashes of a case ahead; `open_case` reports what differs."""
    cases = PreprocessedFolder(Path(folder)).cases
    with suppress(UserError, OSError):
        for part, expected in read_record(folder, case).files.items():
            expected.fault_of(_path(cases, case, part))


def is_complete(folder: Path, case: str, expected_hash: str) -> bool:
    """Whether the case is stored whole and undamaged, and came from the same files and settings.

    One that was stored before hashes were noted is not: it cannot be checked.
    """
    cases = PreprocessedFolder(Path(folder)).cases
    try:
        record = read_record(folder, case)
        faults = [record.files[part].fault_of(_path(cases, case, part)) for part in _PARTS]
    except (UserError, OSError, KeyError):
        return False
    return record.hash == expected_hash and not any(faults)


def preprocessing_settings(plan: Plan) -> dict[str, str]:
    """A hash of each field of the plan that decides what is stored, by the field's name."""
    fields = plan.model_dump(mode="json", include=_SETTINGS | ({"regions"} if plan.regions else set()))
    return {name: hash_text(json.dumps(value, sort_keys=True))[:12] for name, value in sorted(fields.items())}


def list_cases(folder: Path, whole: bool = True) -> tuple[str, ...]:
    """The ids of the cases stored whole below `folder`/cases, sorted; or of all that have some file there."""
    cases = PreprocessedFolder(Path(folder)).cases
    found = {path.stem for path in cases.glob("[!.]*.json")}
    if not whole:
        for part in _PARTS:
            found |= {path.name.removesuffix(f".{part}.b2nd") for path in cases.glob(f"[!.]*.{part}.b2nd")}
    return tuple(sorted(found))


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
        return _other_numbers(case, plan)
    return [
        f"{case.folder}: case {case.record.case} was stored by a plan with other {fields}. Put the plan back, or run "
        "tds_plan_and_preprocess again."
    ]


def _other_numbers(case: StoredCase, plan: Plan) -> list[str]:
    """A line where a record or its image holds more than the plan has, as after an edit by hand."""
    record = case.record
    channels, largest = case.image.shape[0], max((0, *record.present, *record.known))
    if channels != len(plan.channels) or largest > len(plan.labels):
        return [
            f"{case.folder}: case {record.case} has {channels} channels and label number {largest}; the plan has "
            f"{len(plan.channels)} channels and {len(plan.labels)} labels. {_AGAIN}"
        ]
    return []


def _record_path(cases: Path, case: str) -> Path:
    return cases / f"{case}.json"


def _path(folder: Path, case: str, part: str) -> Path:
    return folder / f"{case}.{part}.b2nd"


def _open_part(cases: Path, record: CaseRecord, part: str) -> blosc2.NDArray:
    """One array of a case. `UserError` where its file is missing, damaged, or not the one that was stored."""
    path = _path(cases, record.case, part)
    try:
        if part in record.files:
            _refuse(cases, record, record.files[part].fault_of(path), path.name)
        return _open(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{cases}: stored case {record.case} cannot be opened ({error}). {_AGAIN}") from None


def _refuse(cases: Path, record: CaseRecord, fault: str | None, name: str = "") -> None:
    """Raise `UserError` if there is a fault."""
    if fault:
        what = f"{name}: {fault}" if name else fault
        raise UserError(f"{cases}: stored case {record.case} is damaged ({what}). {_AGAIN}")


def _shape_fault(part: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
    if found == expected:
        return None
    return f"the shape of {part} is {found}, its record expects {expected}"


def _image_fault(part: np.ndarray) -> str | None:
    return None if np.isfinite(part).all() else "its image holds numbers that are not finite"


def _label_fault(numbers: int, part: np.ndarray) -> str | None:
    lowest, highest = int(part.min(initial=0)), int(part.max(initial=0))
    if lowest >= IGNORED and highest <= numbers:
        return None
    return f"its labels hold number {highest if highest > numbers else lowest}, expected {IGNORED} to {numbers}"


def _open(path: Path) -> blosc2.NDArray:
    """A plain array. Safe mode refuses files that carry an expression, Python source or a link: they could run code."""
    mapped = {"mmap_mode": "r"} if os.name == "posix" else {}  # a third faster for random patches
    array = blosc2.open(str(path), mode="r", deserialize="safe", dparams=blosc2.DParams(nthreads=1), **mapped)
    if type(array) is not blosc2.NDArray:
        raise ValueError(f"{path.name} holds a {type(array).__name__}, expected a plain array")
    return array


def _write(path: Path, array: np.ndarray) -> FileHash:
    """Compress in memory, write under a temporary name, rename."""
    chunks = tuple(1 if array.ndim == 4 and axis == 0 else min(size, _CHUNK) for axis, size in enumerate(array.shape))
    blocks = tuple(min(size, _BLOCK) for size in chunks)
    if array.ndim == 2:
        chunks = blocks = array.shape
    codec = blosc2.CParams(
        codec=blosc2.Codec.LZ4HC, clevel=1, filters=[blosc2.Filter.SHUFFLE], typesize=array.itemsize, nthreads=1
    )
    stored = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=codec)
    content = stored.to_cframe()
    write_atomically(path, content)
    return FileHash.of(content)
