"""Masks of one structure, of which some hold 1 and the others 255. Both are usual values of a binary mask."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from plans.file_names import NIFTI
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.tasks.new.cases import TakenCase, remove

BINARY_VALUES = {1, 255}


def with_one_value(taken: Sequence[TakenCase], named: Collection[int]) -> list[TakenCase]:
    """The cases with 1 in place of 255, if all masks are binary and hold one of both.

    Args:
        taken: the cases. Their masks are written again where the value changes, with a note.
        named: the values that the user named. If 255 is one of them, 1 becomes 255; if both are, nothing changes.
    """
    held = [{*case.volumes} for case in taken]
    named = BINARY_VALUES & {*named}
    if set().union(*held) != BINARY_VALUES or max(map(len, held)) > 1 or named == BINARY_VALUES:
        return list(taken)
    value = 255 if 255 in named else 1
    return [case if value in case.volumes or not case.volumes else _written(case, value) for case in taken]


def _written(case: TakenCase, value: int) -> TakenCase:
    """The case with another value in its binary mask."""
    mask = read_labels(case.label)
    ((old, volume),) = case.volumes.items()
    remove(case.label)
    label = case.label.with_name(f"{case.case}{NIFTI}")
    write_labels(label, np.where(mask.array[0] > 0, value, 0), mask.geometry)
    note = (
        f"Some masks hold only {old}, others only {value}. They were taken as one structure, and written with {value}. "
        "If these are two structures, name both values: --labels NAME=1 OTHER=255 --overwrite."
    )
    return replace(case, label=label, volumes={value: volume}, notes=(*case.notes, note))
