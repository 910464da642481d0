"""Which cases a trained fold was begun with (`cases.json`), and whether its checkpoints were trained on them.

The hash of the cases stands in `cases.json` and in each checkpoint, so that another fold's file is seen.
"""

import json
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from plans.errors import UserError
from plans.layout import CHECKPOINTS, Checkpoint, FoldFolder
from plans.records import Record, Upgrades
from textdiffseg.files import hash_text, write_record
from textdiffseg.folds.progress import PROGRESS, parse_progress
from textdiffseg.folds.weights import hash_weights, read_metadata


class FoldCases(Record):
    """The cases that a trained fold was begun with (`cases.json`)."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # the new fields have defaults
    dataset: str | None = None  # None: written before it was noted
    train: tuple[str, ...]
    validation: tuple[str, ...]
    hash: str | None = None  # of the data set's name and both lists; None as above

    @classmethod
    def of(cls, dataset: str, train: Sequence[str], validation: Sequence[str]) -> Self:
        """The cases of a fold of a data set, with their hash."""
        content = json.dumps([dataset, sorted(train), sorted(validation)])
        return cls(dataset=dataset, train=tuple(train), validation=tuple(validation), hash=hash_text(content))


def write_cases(fold: FoldFolder, cases: FoldCases) -> None:
    """Note which cases a trained fold is begun with."""
    write_record(fold.cases, cases)


def refuse_other_cases(fold: FoldFolder, cases: FoldCases) -> None:
    """Raise `UserError` where a trained fold, or a checkpoint in it, was begun with other cases than `cases`."""
    if fold.cases.is_file():
        begun = FoldCases.read(fold.cases)
        if {*begun.train} != {*cases.train} or {*begun.validation} != {*cases.validation}:
            raise UserError(
                f"{fold.cases}: this fold was begun with other cases than splits.json gives it now. If resumed, it "
                "would be validated on cases that it has seen, or miss some. Train it anew with --restart."
            )
        if begun.dataset not in (None, cases.dataset):
            raise UserError(
                f"{fold.path} is a fold of {begun.dataset}, not of {cases.dataset}. Move it away, or train it anew "
                "with --restart."
            )
    for which in CHECKPOINTS:
        refuse_strange_checkpoint(fold, which, cases.hash, "or train this one anew with --restart")


def refuse_strange_checkpoint(fold: FoldFolder, which: str, wanted: str | None, otherwise: str) -> None:
    """Raise `UserError` where a checkpoint was trained on cases with another hash than `wanted`."""
    found = cases_of(fold, which)
    if None not in (found, wanted) and found != wanted:
        raise UserError(
            f"{fold.checkpoint(which)} was trained on other cases than this fold has: it is another fold's. Put the "
            f"fold's own file back, {otherwise}."
        )


def refuse_strange_checkpoints(folds: Sequence[FoldFolder]) -> None:
    """Raise `UserError` where a fold holds another fold's checkpoint, by its list of cases or by its other one."""
    for fold in folds:
        listed = FoldCases.read(fold.cases).hash if fold.cases.is_file() else None
        wanted = listed or cases_of(fold, "best")
        for which in CHECKPOINTS:
            refuse_strange_checkpoint(fold, which, wanted, "or choose other folds with --folds")


def refuse_copies(folds: Sequence[FoldFolder], checkpoint: Checkpoint) -> None:
    """Raise `UserError` where two folds of an ensemble are the same fold."""
    seen: dict[str, FoldFolder] = {}
    for fold in folds:
        listed = FoldCases.read(fold.cases).hash if fold.cases.is_file() else None
        weights = hash_weights(fold, checkpoint) if len(folds) > 1 else None
        for mark in filter(None, (cases_of(fold, checkpoint) or listed, weights)):
            if mark in seen:
                raise UserError(
                    f"{fold.path} is a copy of {seen[mark].path}: both were trained on the same cases. An ensemble "
                    "needs different folds. Choose among them with --folds, or move the copy away."
                )
            seen[mark] = fold


def cases_of(fold: FoldFolder, which: str) -> str | None:
    """The hash of the cases that a checkpoint was trained on; None where it has none."""
    path = fold.checkpoint(which)
    metadata = read_metadata(path) if path.is_file() else {}
    return parse_progress(path, metadata).cases if PROGRESS in metadata else None
