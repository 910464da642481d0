"""The state of a data set: its plans, its stored cases, and the state of each fold. Nothing is changed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from plans.choices import PRESETS, RESOLUTIONS, Preset, Resolution
from plans.commands import command_line, predict_best_command, predict_command
from plans.errors import UserError
from plans.layout import (
    ALL,
    FoldFolder,
    PreprocessedFolder,
    RawFolder,
    fold_folders,
    model_folder,
    tree,
)
from plans.raw.dataset import read_dataset
from plans.raw.folders import find_folder
from textdiffseg.arguments import path_of
from textdiffseg.data.splits import read_stored_splits
from textdiffseg.data.store import list_cases
from textdiffseg.folds.best import read_choice, why_outdated
from textdiffseg.folds.changed import changes
from textdiffseg.folds.lock import is_held
from textdiffseg.folds.plans import plan_of_dataset
from textdiffseg.tasks.fold_status import FoldStatus, train_status

FIRST_HOURS = "--hours", "4"
TRAINING_SHARE = 0.75  # of the hours of `tds_run`; the rest is for the validation
Content = TypeVar("Content")


@dataclass(frozen=True)
class PresetStatus:
    """A plan, and its folds."""

    preset: Preset
    resolution: Resolution
    planned: bool  # False: only trained folds are here
    device: str | None
    patch: tuple[int, int, int] | None  # voxels, (z, y, x)
    spacing: tuple[float, float, float] | None  # mm, (z, y, x)
    folds: tuple[FoldStatus, ...]
    error: str | None = None  # the damage of the plan's file


@dataclass(frozen=True)
class DatasetStatus:
    """The state of a data set."""

    dataset: str
    cases: int | None  # training cases of the raw data set; None: it is not here, or has faults
    stored: int
    planning: bool  # a process plans it now
    presets: tuple[PresetStatus, ...]
    next: str  # the command to type
    notes: tuple[str, ...] = ()


def status(dataset: str | Path, *, root: str | Path = ".") -> DatasetStatus:
    """The state of a data set.

    Args:
        dataset: id, name, folder's name or path.
        root: the folder that holds raw/, preprocessed/ and results/.

    Raises `UserError` if there is no such data set. The status names damaged files, and shows the rest.
    """
    root = path_of(root)
    name = name_of(str(dataset), root)
    source, results = PreprocessedFolder(tree(root, "preprocessed") / name), tree(root, "results") / name
    names = _Readable[Sequence[str]].of(lambda: fold_names(source), ())
    outdated = _Readable.of(lambda: why_outdated(results), None)
    found = tuple(
        _preset(root, source if resolution == "full" else source.low(preset), preset, resolution, names.content)
        for preset in PRESETS
        for resolution in RESOLUTIONS
        if model_folder(root, name, preset, resolution).is_dir()
        or (resolution == "full" and source.plan(preset).is_file())
    )
    cases = None
    with suppress(UserError):
        cases = len(read_dataset(find_folder(name, root, "raw")).cases)
    return DatasetStatus(
        dataset=name,
        cases=cases,
        stored=len(list_cases(source.path)),
        planning=is_held(source.planning_lock),
        presets=found,
        next=_next(root, name, found) if names.fault is None else command_line("tds_status", name, root=root),
        notes=tuple(filter(None, (names.fault, *_changes(root, name, found), outdated.content, outdated.fault))),
    )


@dataclass(frozen=True)
class _Readable(Generic[Content]):
    """What was read, or a fault of the file that holds it."""

    content: Content
    fault: str | None = None  # one line

    @classmethod
    def of(cls, read: Callable[[], Content], otherwise: Content) -> "_Readable[Content]":
        """The content that `read` returns; `otherwise` and the fault if it raises `UserError`."""
        try:
            return cls(read())
        except UserError as error:
            return cls(otherwise, error.lines[0])


def _changes(root: Path, name: str, presets: Sequence[PresetStatus]) -> Iterator[str]:
    """What was changed since the folds were trained."""
    for preset in presets:
        for fold in preset.folds:
            if fold.state != "damaged":
                with suppress(UserError):  # splits.json is damaged, which is reported once
                    yield from changes(FoldFolder.of(root, name, preset.preset, fold.fold, preset.resolution))


def name_of(dataset: str, root: Path) -> str:
    """The folder's name of a data set, in the first of the three trees that holds it."""
    fault: UserError | None = None
    for kind in ("raw", "preprocessed", "results"):
        try:
            folder = find_folder(dataset, root, kind)
        except UserError as error:
            fault = fault or error
            continue
        header = RawFolder(folder).header
        if kind != "raw" or header.is_file():
            return folder.resolve().name
        fault = UserError(f"{folder} is not a data set: it has no {header.name}. Give the id or the folder of one.")
    assert fault is not None, "expected a fault of the first tree"
    raise fault


def fold_names(source: PreprocessedFolder) -> tuple[str, ...]:
    """The folds of a cross-validation: 0, 1, ..., or all if there is none; () before planning."""
    if not source.splits.is_file():
        return ()
    return tuple(map(str, range(len(read_stored_splits(source.splits).folds)))) or (ALL,)


def _preset(
    root: Path, source: PreprocessedFolder, preset: Preset, resolution: Resolution, of_splits: Sequence[str]
) -> PresetStatus:
    """The state of a preset at a resolution. source: the folder of its plan. of_splits: the folds of the data set."""
    name, folder = source.dataset, model_folder(root, source.dataset, preset, resolution)
    planned = source.plan(preset).is_file()
    started = [fold.name for fold in fold_folders(folder)]
    names = dict.fromkeys((*(of_splits if planned else ()), *started))
    read = _Readable.of(lambda: plan_of_dataset(source, preset) if planned else None, None)
    folds = tuple(train_status(root, name, preset, resolution, fold) for fold in names)
    plan = read.content
    if plan is None:
        return PresetStatus(preset, resolution, planned, None, None, None, folds, read.fault)
    return PresetStatus(preset, resolution, True, plan.device, plan.patch, plan.spacing, folds)


def _next(root: Path, name: str, presets: tuple[PresetStatus, ...]) -> str:
    if damaged := [preset.preset for preset in presets if preset.error is not None]:
        return command_line("tds_plan_and_preprocess", name, preset=damaged[0], root=root)
    presets = tuple(preset for preset in presets if preset.resolution == "full")
    if not any(preset.planned for preset in presets):
        trained = any(fold.state == "validated" for preset in presets for fold in preset.folds)
        return _predict(root, name, presets) if trained else command_line("tds_run", name, *FIRST_HOURS, root=root)
    for preset in presets:
        if preset.planned and any(fold.is_open for fold in preset.folds):
            begun = any(fold.state != "not begun" for fold in preset.folds)
            if begun or not any(fold.command is None for other in presets for fold in other.folds):
                return command_line("tds_run", name, *_hours(preset.folds), preset=preset.preset, root=root)
        damaged_folds = [fold.command for fold in preset.folds if fold.state == "damaged" and fold.command]
        if preset.planned and damaged_folds:
            return damaged_folds[0]
    if not any(fold.state == "validated" for preset in presets for fold in preset.folds):  # all are in training
        return command_line("tds_status", name, root=root)
    return _predict(root, name, presets)


def _hours(folds: Sequence[FoldStatus]) -> tuple[str, ...]:
    """`--hours H`, with which new folds get the length of the others; () if no length was given, or no fold is new.

    A first training gets `FIRST_HOURS`: five folds of the plan's length may take days.
    """
    if not any(fold.iterations or fold.state == "damaged" for fold in folds):
        return FIRST_HOURS
    limits = [fold.limit_seconds for fold in folds if fold.limit_seconds]
    new = sum(fold.is_open and not fold.iterations for fold in folds)
    if not limits or not new:
        return ()
    resumed = sum(fold.seconds_left or 0.0 for fold in folds if fold.command is not None)
    hours = (resumed + new * max(limits)) / TRAINING_SHARE / 3600
    return "--hours", f"{math.ceil(10 * hours - 1e-6) / 10:g}"


def _predict(root: Path, name: str, presets: tuple[PresetStatus, ...]) -> str:
    trained = [preset for preset in presets if any(fold.state == "validated" for fold in preset.folds)]
    if len(trained) > 1:
        results = tree(root, "results") / name
        choice = _Readable.of(lambda: read_choice(results), None).content
        candidates = () if choice is None else choice.candidates
        compared = {model for candidate in candidates for model in candidate.models}
        if {preset.preset for preset in trained} <= compared and why_outdated(results) is None:
            return predict_best_command(name, root)
        return command_line("tds_find_best", name, root=root)
    return predict_command(model_folder(root, name, trained[0].preset))
