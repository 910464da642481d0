"""Preprocessed cases on disk. A case has four array files and a JSON record, which is written last.

| file in cases/       | type            | content                                                      |
| -------------------- | --------------- | ------------------------------------------------------------ |
| `ID.image.b2nd`      | float16         | the image (C, D, H, W) on the plan's grid                    |
| `ID.labels.b2nd`     | int8 or int16   | the label map (D, H, W) on the plan's grid                   |
| `ID.original.b2nd`   | int8 or int16   | the label map (D, H, W) on the file's own grid               |
| `ID.foreground.b2nd` | int32           | candidate centre voxels for patches, rows (label, d, h, w)   |

A label map holds label numbers 1..N, 0 for background and -1 for ignored voxels. If labels overlap, it holds the
numbers of their values instead (`plans.regions`).

A case with several references has the label maps of the first one in these files. Those of the second one are
`ID.labels_2.b2nd` and `ID.original_2.b2nd`, and so on. All references share the candidate centre voxels.

A case without its JSON record does not exist. The record holds the size and hash of each array file. They are checked
once per process before the file is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import blosc2
import numpy as np
from pydantic import Field

from plans.errors import UserError
from plans.geometry import Shape
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.records import Fields, Record, Upgrades
from textdiffseg.data.arrays import (
    ARRAYS,
    ARRAYS_OF_REFERENCE,
    RUN_AGAIN,
    CheckedArray,
    array_path,
    image_fault,
    label_fault,
    open_array,
    reference_array,
    refuse_damaged,
    shape_fault,
    write_array,
)
from textdiffseg.data.sampling import candidate_centres
from textdiffseg.files import FileHash, FileVersion, file_version, write_record
from textdiffseg.preprocessing.case import TransformRecord

STORE_VERSION: Final = 4
MAX_LABELS = 32767  # of int16
MAX_RECORDS = 10_000  # parsed records that a process keeps, a few kB each

LabelNumber = Annotated[int, Field(ge=1, le=MAX_LABELS)]


def _without_hashes(fields: Fields) -> Fields:
    """Version 2 had no hashes, and its key of the transform was `trail`."""
    fields["transform"] = fields.pop("trail")
    return fields | {"files": {}}


class CaseRecord(Record):
    """The record of a stored case (`cases/ID.json`): its properties that are known without its arrays."""

    version: Literal[4] = STORE_VERSION
    case: str
    hash: str  # of the input files, the group, the annotation and the settings
    settings: dict[str, str]  # a hash per field of the plan that preprocessing reads (`preprocessing_settings`)
    shape: Shape  # on the plan's grid
    present: tuple[LabelNumber, ...]  # labels that have voxels on the plan's grid, in any reference
    annotated: tuple[LabelNumber, ...]  # labels that the annotator looked for
    absent: tuple[LabelNumber, ...] = ()  # labels that are declared absent, annotated or not
    group: str | None = None
    references: int = Field(1, ge=1)  # label maps of this case, one per rater
    transform: TransformRecord
    files: dict[str, FileHash] = Field(default_factory=dict)  # by array; empty in records of version 2

    upgrades: ClassVar[Upgrades] = {2: _without_hashes, 3: dict}  # version 3 had one reference

    @property
    def known(self) -> tuple[int, ...]:
        """The known labels, in label order. A label is known if it is annotated or declared absent."""
        return tuple(sorted({*self.annotated, *self.absent}))


@dataclass(frozen=True)
class StoredCase:
    """An open case. `image` and `labels` are read from disk when they are sliced."""

    record: CaseRecord
    image: CheckedArray  # float16 (C, D, H, W)
    references: tuple[CheckedArray, ...]  # int8 or int16 (D, H, W): the label maps that `open_case` opened
    foreground: np.ndarray  # int32 (M, 4): candidate centre voxels, rows (label, d, h, w)
    folder: Path  # that holds the case's files
    max_label: int  # the largest number that a label map may hold

    @property
    def labels(self) -> CheckedArray:
        """The first open label map."""
        return self.references[0]

    def centres(self, foreground: bool) -> np.ndarray:
        """Candidate centre voxels for a patch, int32 rows (label, d, h, w). Empty: sample the patch anywhere.

        With `foreground`, the candidates are labelled voxels if the case has any. Otherwise they are voxels that are
        not ignored, stored only if some are: a patch must hold such a voxel (nnU-Net's rule).
        """
        is_foreground = self.foreground[:, 0] > 0
        return self.foreground[is_foreground if foreground and is_foreground.any() else ~is_foreground]

    def original_labels(self, reference: int = 0) -> np.ndarray:
        """The label map (D, H, W) of a reference on the file's own grid. `UserError` if it is damaged."""
        where = _where(self.folder, self.record)
        array = open_array_of(self.folder, self.record, reference_array("original", reference))
        refuse_damaged(shape_fault("original", array.shape, self.record.transform.original_shape), where)
        return CheckedArray(array, partial(label_fault, self.max_label), where)[...]


def save_case(
    folder: Path,
    record: CaseRecord,
    image: np.ndarray,
    labels: np.ndarray | Sequence[np.ndarray],
    original_labels: np.ndarray | Sequence[np.ndarray],
) -> None:
    """Write a case to `folder`/cases. After any failure, such as a full disk, no file of it is left.

    Args:
        folder: the folder of the preprocessed data set.
        record: the case's record, without hashes.
        image: (C, D, H, W) on the plan's grid.
        labels: label map (D, H, W) on the plan's grid, or one per reference.
        original_labels: label map (D, H, W) on the file's own grid, or one per reference.
    """
    folder = PreprocessedFolder(Path(folder)).cases
    folder.mkdir(parents=True, exist_ok=True)
    maps = [labels] if isinstance(labels, np.ndarray) else [*labels]
    originals = [original_labels] if isinstance(original_labels, np.ndarray) else [*original_labels]
    arrays = {"image": image.astype(np.float16)}
    for index, (label_map, original) in enumerate(zip(maps, originals, strict=True)):
        integer = np.int8 if original.max(initial=0) < 128 else np.int16
        arrays[reference_array("labels", index)] = label_map.astype(integer)
        arrays[reference_array("original", index)] = original.astype(integer)
        if index == 0:  # the order of the files without several raters
            arrays["foreground"] = np.concatenate([candidate_centres(label_map, record.case) for label_map in maps])
    remove_case(folder.parent, record.case)
    try:
        files = {name: write_array(array_path(folder, record.case, name), array) for name, array in arrays.items()}
        stored = record.model_copy(update={"files": files, "references": len(maps)})
        write_record(_record_path(folder, record.case), stored)
    except BaseException:
        remove_case(folder.parent, record.case)
        raise


def open_case(folder: Path, case: str, plan: Plan | None = None, references: Sequence[int] | None = None) -> StoredCase:
    """The stored case with the id `case` in `folder`/cases. `UserError` if it is missing or damaged.

    Args:
        folder: the folder of the preprocessed data set.
        case: the id of the case.
        plan: limits the label numbers that may be read; None: no limit.
        references: the indices of the references whose label maps are opened; None: all.
    """
    cases = PreprocessedFolder(Path(folder)).cases
    record = read_record(folder, case)
    where = _where(cases, record)
    image = open_array_of(cases, record, "image")
    foreground = open_array_of(cases, record, "foreground")
    indices = range(record.references) if references is None else references
    names = [reference_array("labels", index) for index in indices]
    label_maps = {name: open_array_of(cases, record, name) for name in names}
    refuse_damaged(shape_fault("image", image.shape, (image.shape[0], *record.shape)), where)
    refuse_damaged(shape_fault("foreground", foreground.shape, (foreground.shape[0], 4)), where)
    for name, array in label_maps.items():
        refuse_damaged(shape_fault(name, array.shape, record.shape), where)
    max_label = MAX_LABELS if plan is None else max(map(max, plan.value_numbers))
    fault_of = partial(label_fault, max_label)
    return StoredCase(
        record=record,
        image=CheckedArray(image, image_fault, where),
        references=tuple(CheckedArray(array, fault_of, where) for array in label_maps.values()),
        foreground=foreground[...],
        folder=cases,
        max_label=max_label,
    )


def read_record(folder: Path, case: str) -> CaseRecord:
    """The record of the case `case` in `folder`/cases. `UserError` if it is missing or damaged.

    A process parses each record once, unless its file changes.
    """
    path = _record_path(PreprocessedFolder(Path(folder)).cases, case)
    try:
        version = file_version(path)
    except OSError:
        return _parse_record(path, case)  # it raises the error
    return _parse_once(version, path, case)


@lru_cache(maxsize=MAX_RECORDS)
def _parse_once(_: FileVersion, path: Path, case: str) -> CaseRecord:
    return _parse_record(path, case)


def _parse_record(path: Path, case: str) -> CaseRecord:
    record = CaseRecord.read(path, RUN_AGAIN)
    if record.case != case:
        raise UserError(f"{path}: case: it is the record of {record.case!r}, expected {case!r}. {RUN_AGAIN}")
    return record


def list_cases(folder: Path) -> tuple[str, ...]:
    """The sorted ids of the cases in `folder`/cases: those with a record and an image. Other files are the user's."""
    cases = PreprocessedFolder(Path(folder)).cases
    ids = {path.stem for path in cases.glob("[!.]*.json")}
    return tuple(sorted(case for case in ids if array_path(cases, case, "image").exists()))


def remove_case(folder: Path, case: str) -> None:
    """Delete a stored case. Its record is deleted first, so that it never looks complete."""
    cases = PreprocessedFolder(Path(folder)).cases
    _record_path(cases, case).unlink(missing_ok=True)
    for name in ARRAYS:
        array_path(cases, case, name).unlink(missing_ok=True)
    for index in count(1):
        further = [array_path(cases, case, reference_array(name, index)) for name in ARRAYS_OF_REFERENCE]
        if not any(path.exists() for path in further):
            break
        for path in further:
            path.unlink(missing_ok=True)


def open_array_of(cases: Path, record: CaseRecord, name: str) -> blosc2.NDArray:
    """One of a case's arrays. `UserError` if its file is missing, damaged, or not the file that was stored."""
    path = array_path(cases, record.case, name)
    try:
        if name in record.files:
            fault = record.files[name].fault_of(path)
            refuse_damaged(f"{path.name}: {fault}" if fault else None, _where(cases, record))
        return open_array(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{_where(cases, record)} cannot be opened ({error}). {RUN_AGAIN}") from None


def _record_path(cases: Path, case: str) -> Path:
    return cases / f"{case}.json"


def _where(cases: Path, record: CaseRecord) -> str:
    """The case and its folder, in messages."""
    return f"{cases}: stored case {record.case}"
