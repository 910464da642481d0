"""Folds of a cross-validation. Cases of one group stay in one fold. Without groups, the folds are nnU-Net's."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from plans.errors import UserError, listed
from plans.file_names import composed
from plans.layout import ALL
from plans.records import Record, read_json

SEED = 12345  # nnU-Net's
FOLDS = 5
_NO_VALIDATION = "there is nothing to validate on"
_WAY_OUT = (
    "Correct the file, or delete it and run tds_plan_and_preprocess, which makes new folds. Trained folds must then be "
    "trained again."
)


class Split(Record):
    """The case ids of one fold: those to train on, and those to validate on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        """The cases of both sides, without an order."""
        return frozenset(self.train), frozenset(self.validation)


class Splits(Record):
    """The folds of a data set (`splits.json`)."""

    version: Literal[1] = 1
    seed: int | None  # None: the folds were read from nnU-Net's splits_final.json
    cases: tuple[str, ...] = Field(min_length=1)
    folds: tuple[Split, ...]
    note: str = ""  # why there are fewer folds than `FOLDS`

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the folds that can be trained: 0, 1, ... and "all"."""
        return (*map(str, range(len(self.folds))), ALL)

    def split(self, name: int | str) -> Split:
        """The split of fold 0, 1, ... or of "all", which trains and validates on every case.

        Raises `UserError` for any other name.
        """
        if str(name) == ALL:
            return Split(train=self.cases, validation=self.cases)
        if str(name) not in self.names:
            choices = ", ".join(self.names)
            raise UserError(" ".join(f"Fold {name} does not exist: expected {choices}. {self.note}".split()))
        return self.folds[int(name)]


def make_splits(case_ids: Sequence[str], groups: Mapping[str, str | None] | None = None) -> Splits:
    """The folds of a data set. Cases of one group are never split between training and validation.

    Without groups this is nnU-Net's split (scikit-learn's shuffled KFold over the sorted ids), so results are
    comparable. With fewer cases or groups than `FOLDS` there are fewer folds. A single case or group has only fold
    "all".

    Args:
        case_ids: all training cases.
        groups: the group of each case, e.g. its patient; None: the case stands alone.
    """
    cases = tuple(sorted(case_ids))
    units = _units(cases, groups or {})
    count = min(FOLDS, len(units))
    validation = _kfold(units, count) if len(units) == len(cases) else _balanced(units, count)
    folds = tuple(
        Split(train=tuple(case for case in cases if case not in held_out), validation=tuple(sorted(held_out)))
        for held_out in (validation if count > 1 else [])
    )
    return Splits(seed=SEED, cases=cases, folds=folds, note=_note(len(cases), len(units), len(folds)))


def drawn_for_others(path: Path, case_ids: Sequence[str], groups: Mapping[str, str | None]) -> bool:
    """Whether `splits.json` holds the folds that `make_splits` draws, but for other cases than `case_ids`."""
    try:
        splits = Splits.read(path)
    except UserError:
        return False
    return {*splits.cases} != {*case_ids} and splits == make_splits(splits.cases, groups)


def refuse_parted_groups(splits: Splits, groups: Mapping[str, str | None], path: Path) -> None:
    """Raise `UserError` if a fold read from `path` trains on some cases of a group and validates on others."""
    for number, split in enumerate(splits.folds):
        shared = _groups_of(split.train, groups) & _groups_of(split.validation, groups)
        if shared:
            raise UserError(
                f"{path}: fold {number} trains on some cases of group {min(shared)} and validates others, which "
                "would flatter it. Delete the file to draw new folds, or correct it or the groups of dataset.json."
            )


def _groups_of(cases: Sequence[str], groups: Mapping[str, str | None]) -> set[str]:
    names = [groups.get(case) for case in cases]
    return {name for name in names if name is not None}


def join_splits(data_sets: Sequence[tuple[Splits, Mapping[str, str]]]) -> Splits:
    """The folds of several data sets trained together. Fold i validates on the validation cases of every fold i.

    A model of one data set and a model of all can thus be compared on cases that neither was trained on. In a fold
    that a data set does not have, all its cases are for training.

    Args:
        data_sets: for each data set its folds, and the new id of each of its cases.
    """
    cases = tuple(sorted(names[case] for splits, names in data_sets for case in splits.cases))
    folds = []
    for number in range(max(len(splits.folds) for splits, _ in data_sets)):
        train, validation = [], []
        for splits, names in data_sets:
            only_training = Split(train=splits.cases, validation=())
            split = splits.folds[number] if number < len(splits.folds) else only_training
            train += [names[case] for case in split.train]
            validation += [names[case] for case in split.validation]
        folds.append(Split(train=tuple(sorted(train)), validation=tuple(sorted(validation))))
    seeds = {splits.seed for splits, _ in data_sets}
    seed = seeds.pop() if len(seeds) == 1 else None
    return Splits(seed=seed, cases=cases, folds=tuple(folds), note=_note(len(cases), len(cases), len(folds)))


def read_stored_splits(path: Path) -> Splits:
    """The folds in `splits.json`, not compared with the cases. `UserError` with a way out if it is damaged."""
    splits = Splits.read(path, _WAY_OUT)
    _refuse_no_folds(splits, path)
    return splits


def read_splits(path: Path, case_ids: Sequence[str]) -> Splits:
    """The folds in `splits.json`, or in nnU-Net's `splits_final.json` (a list of {"train": [...], "val": [...]}).

    Raises `UserError` with a line for each fault: unknown or repeated cases, a case in both lists, an empty list, equal
    folds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run tds_plan_and_preprocess first.")
    try:
        data = read_json(path)
        if isinstance(data, list):
            data = {"seed": None, "cases": sorted(case_ids), "folds": [_renamed(fold) for fold in data]}
        if not isinstance(data, dict) or "folds" not in data:
            raise UserError(f'{path}: expected a list of folds: [{{"train": [...], "val": [...]}}, ...].')
        splits = Splits.parse(data, str(path))
    except UserError as error:
        raise error.with_advice(_WAY_OUT) from None
    _refuse_no_folds(splits, path)
    known = {*case_ids, *splits.cases}  # where the two differ, one line for all folds follows
    faults = [line for i, split in enumerate(splits.folds) for line in _faults(split, i, known, path)]
    faults += _equal_folds(splits.folds, path)
    if set(splits.cases) != set(case_ids):
        faults.append(
            f"{path}: cases: {len(splits.cases)} listed, {len(case_ids)} in the data set, "
            f"{listed(sorted(set(splits.cases) ^ set(case_ids)))} differ."
        )
    if faults:
        raise UserError(*faults).with_advice(_WAY_OUT)
    return splits


def _refuse_no_folds(splits: Splits, path: Path) -> None:
    """Raise `UserError` if there are no folds. Only the splits of a single case, or of a single group, have none."""
    if not splits.folds and _NO_VALIDATION not in splits.note:
        raise UserError(f"{path}: it holds no folds. {_WAY_OUT}")


def _units(cases: Sequence[str], groups: Mapping[str, str | None]) -> list[tuple[str, ...]]:
    """The groups of cases that must stay together. A case without a group is a unit of its own."""
    units: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        group = groups.get(case)
        units.setdefault(("case", case) if group is None else ("group", group), []).append(case)
    return [tuple(unit) for unit in units.values()]


def _kfold(units: list[tuple[str, ...]], count: int) -> list[set[str]]:
    """The validation cases of each fold, as by scikit-learn's KFold(count, shuffle=True, random_state=SEED)."""
    order = np.arange(len(units))
    np.random.RandomState(SEED).shuffle(order)
    return [{case for i in chunk for case in units[i]} for chunk in np.array_split(order, count)]


def _balanced(units: list[tuple[str, ...]], count: int) -> list[set[str]]:
    """The validation cases of each fold. Large groups come first, each into the fold with the fewest cases so far."""
    order = np.random.default_rng(SEED).permutation(len(units))
    validation: list[set[str]] = [set() for _ in range(count)]
    for i in sorted(order, key=lambda i: -len(units[i])):
        min(validation, key=len).update(units[i])
    return validation


def _note(cases: int, units: int, folds: int) -> str:
    if folds == FOLDS:
        return ""
    what = f"{cases} case{'s' * (cases > 1)}"
    if units != cases:
        what += f" in {units} group{'s' * (units > 1)}"
    if folds == 0:
        return f"With {what} {_NO_VALIDATION}: only fold {ALL!r} can be trained."
    return f"With {what} there are {folds} folds instead of {FOLDS}."


def _renamed(fold: object) -> object:
    """A fold with nnU-Net's key "val" renamed to "validation", and with ids in the Unicode form of case ids.

    Other faults are found when the record is parsed.
    """
    if not isinstance(fold, dict):
        return fold
    return {("validation" if key == "val" else key): _in_one_form(value) for key, value in fold.items()}


def _in_one_form(cases: object) -> object:
    if not isinstance(cases, list):
        return cases
    return [composed(case) if isinstance(case, str) else case for case in cases]


def _equal_folds(folds: Sequence[Split], path: Path) -> list[str]:
    """A line for each set of folds with the same cases. They would be one fold, trained and counted several times."""
    alike: dict[tuple[frozenset[str], frozenset[str]], list[int]] = {}
    for number, fold in enumerate(folds):
        alike.setdefault(fold.sides, []).append(number)
    return [
        f"{path}: folds {listed(numbers)} have the same cases: expected different ones. Keep one of them."
        for numbers in alike.values()
        if len(numbers) > 1
    ]


def _faults(split: Split, number: int, known: Set[str], path: Path) -> list[str]:
    where = f"{path}: fold {number}"
    lines = []
    for name, side in (("train", split.train), ("validation", split.validation)):
        if not side:
            lines.append(f"{where}: {name} is empty: expected at least one case.")
        if unknown := set(side) - known:
            lines.append(f"{where}: {name}: {listed(sorted(unknown))} are not cases of the data set.")
        if len(set(side)) < len(side):
            lines.append(f"{where}: {name} lists a case twice.")
    if both := set(split.train) & set(split.validation):
        lines.append(f"{where}: {listed(sorted(both))} are in train and in validation: expected one side each.")
    return lines
