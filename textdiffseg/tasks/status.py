"""The state of a data set: its plans, its stored cases, and the state of each fold. Nothing is changed."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
from plans.plan import Plan
from plans.raw.dataset import read_dataset
from plans.raw.folders import find_folder
from textdiffseg.arguments import path_of
from textdiffseg.data.splits import read_stored_splits
from textdiffseg.data.store import list_cases
from textdiffseg.folds.best import read_choice, why_outdated
from textdiffseg.folds.changed import changes, current_scores
from textdiffseg.folds.last_error import last_error
from textdiffseg.folds.lock import is_held, owner_of
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.state import is_trained, position_of

TRAINING_SHARE = 0.75  # of the hours of `tds_run`; the rest is for the validation
State = Literal["not begun", "running", "interrupted", "trained", "validated"]


@dataclass(frozen=True)
class FoldStatus:
    """The state of a fold. Seconds are of training; the validation comes after it."""

    fold: str  # 0, 1, ... or all
    state: State
    iteration: int = 0  # done when a checkpoint was last written
    iterations: int = 0  # of the whole run; 0: not known
    seconds: float = 0.0
    seconds_left: float | None = None  # of an unfinished training; None: not known
    limit_seconds: float | None = None  # of the whole training; None: it was not given in minutes or hours
    since: float | None = None  # when the running process began, in seconds since 1970
    host: str | None = None  # of the running process
    process: int | None = None
    dice: float | None = None  # mean over the labels, on the validation cases
    labels: dict[str, float | None] | None = None  # the same for each label
    command: str | None = None  # which goes on; None: nothing is left to do
    error: str | None = None  # that ended the last try; None: no error, or the fold is at work or validated


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

    Raises `UserError` if there is no such data set, or if one of its files is damaged.
    """
    root = path_of(root)
    name = name_of(str(dataset), root)
    source = PreprocessedFolder(tree(root, "preprocessed") / name)
    found = tuple(
        _preset(root, source if resolution == "full" else source.low(preset), preset, resolution)
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
        next=_next(root, name, found),
        notes=(*_changes(root, name, found), *filter(None, (why_outdated(tree(root, "results") / name),))),
    )


def _changes(root: Path, name: str, presets: Sequence[PresetStatus]) -> Iterator[str]:
    """What was changed since the folds were trained."""
    for preset in presets:
        for fold in preset.folds:
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


def fold_status(fold: FoldFolder, command: str) -> FoldStatus:
    """The state of one fold. command: to train it, or to go on."""
    position, held = position_of(fold), is_held(fold.lock)
    now = FoldStatus(fold.name, "not begun", command=command)
    if position is not None:
        now = replace(now, iteration=position.iteration, iterations=position.total, seconds=position.seconds)
        now = replace(now, limit_seconds=position.limit_seconds)
    left = _left(position)
    if held:
        owner = owner_of(fold)
        if owner is not None:
            now = replace(now, since=owner.since, host=owner.host, process=owner.process)
        if left is not None:
            with suppress(OSError):
                saved = fold.checkpoint("latest").stat().st_mtime
                began = max(saved, 0.0 if owner is None else owner.since)  # a resumed run starts at an old checkpoint
                left = max(0.0, left - (time.time() - began))
        return replace(now, state="running", seconds_left=left, command=None)
    now = replace(now, error=last_error(fold))
    if not is_trained(fold):
        return replace(now, state="interrupted") if fold.plan.is_file() else now
    if position is not None and not position.finished:
        return replace(now, state="interrupted", seconds_left=left)
    summary = current_scores(fold)
    if summary is None:
        return replace(now, state="trained")
    labels = {name: one.dice for name, one in summary.labels.items()}
    return replace(now, state="validated", dice=summary.mean.dice, labels=labels, command=None, error=None)


def train_status(root: Path, dataset: str, preset: Preset, resolution: Resolution, fold: str) -> FoldStatus:
    """The state of a fold that `tds_train` trains. dataset: its folder's name."""
    command = command_line("tds_train", dataset, fold, preset=preset, resolution=resolution, root=root)
    return fold_status(FoldFolder.of(root, dataset, preset, fold, resolution), command)


def fold_names(source: PreprocessedFolder) -> tuple[str, ...]:
    """The folds of a cross-validation: 0, 1, ..., or all if there is none; () before planning."""
    if not source.splits.is_file():
        return ()
    return tuple(map(str, range(len(read_stored_splits(source.splits).folds)))) or (ALL,)


def _preset(root: Path, source: PreprocessedFolder, preset: Preset, resolution: Resolution) -> PresetStatus:
    """The state of a preset at a resolution. source: the folder of its plan."""
    name, folder = source.dataset, model_folder(root, source.dataset, preset, resolution)
    planned = source.plan(preset).is_file()
    started = [fold.name for fold in fold_folders(folder)]
    names = dict.fromkeys((*(fold_names(source) if planned else ()), *started))
    plan = Plan.read(source.plan(preset)) if planned else None
    folds = tuple(train_status(root, name, preset, resolution, fold) for fold in names)
    if plan is None:
        return PresetStatus(preset, resolution, False, None, None, None, folds)
    return PresetStatus(preset, resolution, True, plan.device, plan.patch, plan.spacing, folds)


def _left(position: TrainingPosition | None) -> float | None:
    """The seconds that a training needs from its last checkpoint on; None if it is over, or not known."""
    if position is None or position.finished or not position.iteration:
        return None
    if position.limit_seconds is not None:
        return max(0.0, position.limit_seconds - position.seconds)
    return position.seconds / position.iteration * (position.total - position.iteration)


def _next(root: Path, name: str, presets: tuple[PresetStatus, ...]) -> str:
    presets = tuple(preset for preset in presets if preset.resolution == "full")
    if not any(preset.planned for preset in presets):
        trained = any(fold.state == "validated" for preset in presets for fold in preset.folds)
        return _predict(root, name, presets) if trained else command_line("tds_run", name, "--hours", "4", root=root)
    for preset in presets:
        if preset.planned and any(fold.command for fold in preset.folds):
            begun = any(fold.state != "not begun" for fold in preset.folds)
            if begun or not any(fold.command is None for other in presets for fold in other.folds):
                return command_line("tds_run", name, *_hours(preset.folds), preset=preset.preset, root=root)
    if not any(fold.state == "validated" for preset in presets for fold in preset.folds):  # all are in training
        return command_line("tds_status", name, root=root)
    return _predict(root, name, presets)


def _hours(folds: Sequence[FoldStatus]) -> tuple[str, ...]:
    """`--hours H`, with which new folds get the length of the others; () if no length was given, or no fold is new."""
    limits = [fold.limit_seconds for fold in folds if fold.limit_seconds]
    new = sum(fold.command is not None and not fold.iterations for fold in folds)
    if not limits or not new:
        return ()
    resumed = sum(fold.seconds_left or 0.0 for fold in folds if fold.command is not None)
    hours = (resumed + new * max(limits)) / TRAINING_SHARE / 3600
    return "--hours", f"{math.ceil(10 * hours - 1e-6) / 10:g}"


def _predict(root: Path, name: str, presets: tuple[PresetStatus, ...]) -> str:
    trained = [preset for preset in presets if any(fold.state == "validated" for fold in preset.folds)]
    if len(trained) > 1:
        results = tree(root, "results") / name
        choice = read_choice(results)
        candidates = () if choice is None else choice.candidates
        compared = {model for candidate in candidates for model in candidate.models}
        if {preset.preset for preset in trained} <= compared and why_outdated(results) is None:
            return predict_best_command(name, root)
        return command_line("tds_find_best", name, root=root)
    return predict_command(model_folder(root, name, trained[0].preset))
