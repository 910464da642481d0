"""The cases that a fold was started with (`cases.json`), and checks that its checkpoints were trained on them.

The hash of the cases is in `cases.json` and in each checkpoint. So a file of another fold is detected.
"""

import json
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from plans.errors import UserError
from plans.layout import CHECKPOINTS, Checkpoint, FoldFolder
from plans.raw.dataset import CaseId
from plans.records import Record, Upgrades
from textdiffseg.files import hash_text, write_record
from textdiffseg.folds.position import noted_position
from textdiffseg.folds.weights import hash_weights


class FoldCases(Record):
    """The cases that a fold was started with (`cases.json`)."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # the new fields have defaults
    dataset: str | None = None  # None: written by an older version
    train: tuple[CaseId, ...]
    validation: tuple[CaseId, ...]
    hash: str | None = None  # of the data set's name and both lists; None as above
    contents: dict[str, str] | None = None  # by training case, hash of its files and settings at the start
    scored: dict[str, str] | None = None  # the same by validation case, at the last validation

    @classmethod
    def of(cls, dataset: str, train: Sequence[str], validation: Sequence[str]) -> Self:
        """The cases of a fold of a data set, with their hash."""
        content = json.dumps([dataset, sorted(train), sorted(validation)])
        return cls(dataset=dataset, train=tuple(train), validation=tuple(validation), hash=hash_text(content))


def read_cases(fold: FoldFolder) -> FoldCases | None:
    """The cases that a fold was started with; None if it has no list. `UserError` if the list is damaged."""
    if not fold.cases.is_file():
        return None
    way_out = "Copy the file again, or delete it: the checkpoints still note which cases they were trained on."
    return FoldCases.read(fold.cases, way_out)


def write_cases(fold: FoldFolder, cases: FoldCases) -> None:
    """Write the cases that a fold is started with."""
    write_record(fold.cases, cases)


def refuse_other_cases(fold: FoldFolder, cases: FoldCases) -> None:
    """Raise `UserError` if a fold was started with other cases than `cases`, or one of its checkpoints was."""
    if (started := read_cases(fold)) is not None:
        if {*started.train} != {*cases.train} or {*started.validation} != {*cases.validation}:
            raise UserError(
                f"{fold.cases}: this fold was started with other cases than splits.json lists now. If resumed, it "
                "would be validated on training cases, or miss cases. Train it again with --restart."
            )
        if started.dataset not in (None, cases.dataset):
            raise UserError(
                f"{fold.path} is a fold of {started.dataset}, not of {cases.dataset}. Move it away, or train it again "
                "with --restart."
            )
    for which in CHECKPOINTS:
        refuse_strange_checkpoint(fold, which, cases.hash, "or train this fold again with --restart")


def refuse_strange_checkpoint(fold: FoldFolder, which: str, wanted: str | None, otherwise: str) -> None:
    """Raise `UserError` if a checkpoint was trained on cases with another hash than `wanted`."""
    trained_on = cases_of(fold, which)
    if None not in (trained_on, wanted) and trained_on != wanted:
        raise UserError(
            f"{fold.checkpoint(which)} was trained on other cases than this fold has: it is another fold's file. Copy "
            f"the fold's own file back, {otherwise}."
        )


def refuse_strange_checkpoints(folds: Sequence[FoldFolder]) -> None:
    """Raise `UserError` if a fold holds the checkpoint of another fold.

    The reference is the fold's list of cases, else its best checkpoint.
    """
    for fold in folds:
        wanted = listed_hash(fold) or cases_of(fold, "best")
        for which in CHECKPOINTS:
            refuse_strange_checkpoint(fold, which, wanted, "or choose other folds with --folds")


def refuse_copies(folds: Sequence[FoldFolder], checkpoint: Checkpoint) -> None:
    """Raise `UserError` if two folds of an ensemble are the same fold."""
    seen: dict[str, FoldFolder] = {}
    for fold in folds:
        weights = hash_weights(fold, checkpoint) if len(folds) > 1 else None
        for mark in filter(None, (cases_of(fold, checkpoint) or listed_hash(fold), weights)):
            if mark in seen:
                raise UserError(
                    f"{fold.path} is a copy of {seen[mark].path}: both were trained on the same cases. An ensemble "
                    "needs different folds. Choose among them with --folds, or move the copy away."
                )
            seen[mark] = fold


def listed_hash(fold: FoldFolder) -> str | None:
    """The hash of the cases that a fold was started with; None if it is not known."""
    cases = read_cases(fold)
    return None if cases is None else cases.hash


def cases_of(fold: FoldFolder, which: str) -> str | None:
    """The hash of the cases that a checkpoint was trained on; None if it has none."""
    position = noted_position(fold, which)
    return None if position is None else position.cases
