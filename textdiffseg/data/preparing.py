"""Preprocessing of a data set to stored cases. Each case is written whole or not at all.

A case is skipped if it is stored with the hash of its files and settings.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.fingerprint import CaseFingerprint, Fingerprint
from plans.plan import Plan
from plans.raw.dataset import Case, Dataset
from textdiffseg.data.checks import is_complete, preprocessing_settings
from textdiffseg.data.store import CaseRecord, list_cases, read_record, remove_case, save_case
from textdiffseg.execution import run_cases
from textdiffseg.files import hash_text
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels
from textdiffseg.preprocessing.fingerprinting import content_hash, joint_labels, read_case
from textdiffseg.resources import free_memory

STORED_CASE_VERSION = 4  # raised when preprocessing changes what it stores


def preprocess_dataset(
    dataset: Dataset,
    plan: Plan,
    folder: Path,
    workers: int,
    scheduler: str | None = None,
    progress: Callable[[Iterable[bool]], Iterable[bool]] = iter,
) -> int:
    """The number of cases that were stored now, in `folder`/cases. `UserError` names all broken cases.

    Stored cases that the data set no longer has are removed.
    """
    for case in sorted(set(list_cases(folder)) - {case.id for case in dataset.cases}):
        remove_case(folder, case)
    function = partial(preprocess_case, plan=plan, folder=Path(folder))
    names = [case.id for case in dataset.cases]
    return sum(progress(run_cases(function, dataset.cases, names, workers, scheduler)))


def preprocess_case(case: Case, plan: Plan, folder: Path) -> bool:
    """Whether the case was stored now. False: it was stored before."""
    expected = case_hash(case, plan)
    if is_complete(folder, case.id, expected):
        return False
    volume, references = read_case(case, plan.labels, [channel.name for channel in plan.channels])
    image, transform = preprocess_image(volume, plan, joint_labels(references))
    del volume  # frees its memory before the arrays are packed
    labels = [preprocess_labels(numbers, transform, plan) for numbers in references]
    names = [label.name for label in plan.labels]
    in_map = set[int]()
    for label_map in labels:
        in_map |= {*np.flatnonzero(np.bincount(label_map[label_map > 0])).tolist()}
    record = CaseRecord(
        case=case.id,
        hash=expected,
        settings=preprocessing_settings(plan),
        shape=transform.shape,
        present=tuple(label for label, numbers in enumerate(plan.value_numbers, 1) if in_map & set(numbers)),
        annotated=tuple(number for number, name in enumerate(names, 1) if name in case.annotation.annotated),
        absent=tuple(number for number, name in enumerate(names, 1) if name in case.annotation.absent),
        group=case.group,
        transform=transform,
    )
    save_case(folder, record, image, labels, references)
    return True


def bytes_per_case(fingerprint: Fingerprint, plan: Plan) -> float:
    """Host memory in bytes to preprocess the largest case."""
    return max(_bytes_of(case, plan) for case in fingerprint.cases)


def refuse_too_large(fingerprint: Fingerprint, plan: Plan, folder: Path) -> None:
    """Raise `UserError` with a line for each case that needs more memory than there is. Stored cases need none."""
    free, faults = free_memory(), []
    for case in fingerprint.cases:
        if (need := _bytes_of(case, plan)) > free and not _is_stored(case.case, plan, folder):
            size = "x".join(map(str, case.shape_at(plan.spacing)))
            spacing = "/".join(f"{mm:g}" for mm in case.spacing)
            faults.append(
                f"case {case.case}: its spacing {spacing} mm (z/y/x) makes {size} voxels at the plan's. They need "
                f"{need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free. Correct the spacing in its header, "
                "give a coarser --spacing, or leave the case out."
            )
    if faults:
        raise UserError(*faults)


def _is_stored(case: str, plan: Plan, folder: Path) -> bool:
    """Whether a case is stored with these settings. Whether its files have changed since is examined later."""
    try:
        return read_record(folder, case).settings == preprocessing_settings(plan)
    except (UserError, OSError):
        return False


def _bytes_of(case: CaseFingerprint, plan: Plan) -> float:
    """Host memory in bytes to preprocess a case: three float32 copies before and after resampling."""
    channels = len(plan.channels)
    return 12.0 * channels * prod(case.shape) + (10.0 * channels + 8) * prod(case.shape_at(plan.spacing))


def case_hash(case: Case, plan: Plan) -> str:
    """A hash of the case's files, group and annotation, and of the settings of preprocessing."""
    annotation = f"{case.group} {case.annotation.model_dump_json()}{case.lacking}"
    files = content_hash((*case.images, *case.references))
    return hash_text(f"{STORED_CASE_VERSION} {preprocessing_settings(plan)} {annotation} {files}")
