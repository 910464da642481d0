"""Folds of a cross-validation: seeded, grouped where cases share a group; the same as nnU-Net's where none do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from plans.errors import UserError, listed
from plans.records import Record, read_json

SEED = 12345  # nnU-Net's
FOLDS = 5
ALL = "all"


class Fold(Record):
    """Case ids of one fold."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Record):
    """The folds of a data set (`splits.json`)."""

    version: Literal[1] = 1
    seed: int | None  # None where the folds were read from nnU-Net's splits_final.json
    cases: tuple[str, ...]
    folds: tuple[Fold, ...]
    note: str = ""  # a sentence, where there are fewer folds than usual

    def fold(self, name: int | str) -> Fold:
        """Fold 0, 1, ... or "all", which trains and validates on every case; `UserError` if there is none such."""
        if str(name) == ALL:
            return Fold(train=self.cases, validation=self.cases)
        if str(name) not in map(str, range(len(self.folds))):
            choices = ", ".join([*map(str, range(len(self.folds))), ALL])
            raise UserError(" ".join(f"Fold {name} does not exist: expected {choices}. {self.note}".split()))
        return self.folds[int(name)]


def make_splits(
    case_ids: Sequence[str],
    groups: Mapping[str, str | None] | None = None,
    seed: int = SEED,
) -> Splits:
    """Cut the cases into folds; cases of one group stay together.

    Without groups this is nnU-Net's split (scikit-learn's shuffled KFold over the sorted ids), so that results
    compare. With fewer cases or groups than folds there are fewer folds; with one there is none, but fold "all".
    """
    cases = tuple(sorted(case_ids))
    units = _units(cases, groups or {})
    count = min(FOLDS, len(units))
    parts = _kfold(units, count, seed) if len(units) == len(cases) else _balanced(units, count, seed)
    made = tuple(
        Fold(train=tuple(case for case in cases if case not in part), validation=tuple(sorted(part)))
        for part in (parts if count > 1 else [])
    )
    return Splits(seed=seed, cases=cases, folds=made, note=_note(len(cases), len(units), len(made)))


def refuse_parted_groups(splits: Splits, groups: Mapping[str, str | None], path: Path) -> None:
    """Raise `UserError` where folds read from `path` train on some cases of a group and validate others."""
    for number, fold in enumerate(splits.folds):
        shared = _groups_of(fold.train, groups) & _groups_of(fold.validation, groups)
        if shared:
            raise UserError(
                f"{path}: fold {number} trains on some cases of group {min(shared)} and validates others, which would "
                "flatter it. Remove the file to draw folds anew, or mend it or the groups of dataset.json."
            )


def _groups_of(cases: Sequence[str], groups: Mapping[str, str | None]) -> set[str]:
    found = [groups.get(case) for case in cases]
    return {group for group in found if group is not None}


def join_splits(parts: Sequence[tuple[Splits, Mapping[str, str]]]) -> Splits:
    """Folds of several data sets trained together: fold i validates on what each data set's own fold i does.

    So a model of one of them and a model of all are compared on cases that neither was trained on. A data set with
    fewer folds trains whole in the others. With each `Splits` comes how its cases are called now.
    """
    cases = tuple(sorted(names[case] for splits, names in parts for case in splits.cases))
    folds = []
    for number in range(max(len(splits.folds) for splits, _ in parts)):
        train, validation = [], []
        for splits, names in parts:
            whole = Fold(train=splits.cases, validation=())
            own = splits.folds[number] if number < len(splits.folds) else whole
            train += [names[case] for case in own.train]
            validation += [names[case] for case in own.validation]
        folds.append(Fold(train=tuple(sorted(train)), validation=tuple(sorted(validation))))
    seeds = {splits.seed for splits, _ in parts}
    return Splits(seed=seeds.pop() if len(seeds) == 1 else None, cases=cases, folds=tuple(folds))


def read_splits(path: Path, case_ids: Sequence[str]) -> Splits:
    """Read `splits.json`, or nnU-Net's `splits_final.json` (a list of {"train": [...], "val": [...]}).

    `UserError` lists every fold that does not fit: unknown or repeated cases, a case on both sides, an empty side.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run tds_plan_and_preprocess first.")
    data = read_json(path)
    if isinstance(data, list):
        data = {"seed": None, "cases": sorted(case_ids), "folds": [_renamed(fold) for fold in data]}
    splits = Splits.parse(data, str(path))
    faults = [line for i, fold in enumerate(splits.folds) for line in _faults(fold, i, case_ids, path)]
    if set(splits.cases) != set(case_ids):
        faults.append(
            f"{path}: cases: {len(splits.cases)} listed, {len(case_ids)} in the data set, "
            f"{listed(sorted(set(splits.cases) ^ set(case_ids)))} differ: delete the file to have new folds made."
        )
    if faults:
        raise UserError(*faults)
    return splits


def _units(cases: Sequence[str], groups: Mapping[str, str | None]) -> list[tuple[str, ...]]:
    """Cases that must stay together; a case without a group stands alone."""
    together: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        group = groups.get(case)
        together.setdefault(("case", case) if group is None else ("group", group), []).append(case)
    return [tuple(unit) for unit in together.values()]


def _kfold(units: list[tuple[str, ...]], count: int, seed: int) -> list[set[str]]:
    """scikit-learn's KFold(count, shuffle=True, random_state=seed), validation sides."""
    order = np.arange(len(units))
    np.random.RandomState(seed).shuffle(order)
    return [{case for i in part for case in units[i]} for part in np.array_split(order, count)]


def _balanced(units: list[tuple[str, ...]], count: int, seed: int) -> list[set[str]]:
    """Groups in random order, large ones first, each to the fold that has the fewest cases so far."""
    order = np.random.default_rng(seed).permutation(len(units))
    parts: list[set[str]] = [set() for _ in range(count)]
    for i in sorted(order, key=lambda i: -len(units[i])):
        min(parts, key=len).update(units[i])
    return parts


def _note(cases: int, units: int, made: int) -> str:
    if made == FOLDS:
        return ""
    what = f"{cases} cases" if units == cases else f"{cases} cases in {units} groups"
    if made == 0:
        return f"With {what} there is nothing to validate on: only fold {ALL!r} can be trained."
    return f"With {what} there are {made} folds instead of {FOLDS}."


def _renamed(fold: object) -> object:
    """nnU-Net's "val" under our name; anything else is left for the validation to refuse."""
    if isinstance(fold, dict) and "val" in fold:
        return {("validation" if key == "val" else key): value for key, value in fold.items()}
    return fold


def _faults(fold: Fold, number: int, case_ids: Sequence[str], path: Path) -> list[str]:
    where = f"{path}: fold {number}"
    lines = []
    for name, side in (("train", fold.train), ("validation", fold.validation)):
        if not side:
            lines.append(f"{where}: {name} is empty: expected at least one case.")
        if unknown := set(side) - set(case_ids):
            lines.append(f"{where}: {name}: {listed(sorted(unknown))} are no cases of the data set.")
        if len(set(side)) < len(side):
            lines.append(f"{where}: {name} lists a case twice.")
    if both := set(fold.train) & set(fold.validation):
        lines.append(f"{where}: {listed(sorted(both))} are in train and in validation: expected one side each.")
    return lines
