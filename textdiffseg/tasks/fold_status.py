"""The state of a fold: how far it is trained and validated, and the command that goes on. Nothing is changed."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from plans.choices import Preset, Resolution
from plans.commands import command_line
from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.folds.changed import current_scores
from textdiffseg.folds.last_error import last_error
from textdiffseg.folds.lock import is_held, owner_of
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.state import is_trained, position_of
from textdiffseg.tasks.damage import damage_of

State = Literal["not begun", "running", "interrupted", "trained", "validated", "damaged"]


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
    error: str | None = None  # the damage, or what ended the last try; None: neither, or at work, or validated

    @property
    def is_open(self) -> bool:
        """Whether `tds_run` goes on with it. For a damaged fold, the user must decide."""
        return self.command is not None and self.state != "damaged"


def fold_status(fold: FoldFolder, command: str) -> FoldStatus:
    """The state of one fold. command: `tds_train`, which begins it or goes on."""
    held, damage = is_held(fold.lock), damage_of(fold)
    position = None
    with suppress(UserError, OSError):  # the damage
        position = position_of(fold)
    now = FoldStatus(fold.name, "not begun", command=command)
    if position is not None:
        now = replace(now, iteration=position.iteration, iterations=position.total, seconds=position.seconds)
        now = replace(now, limit_seconds=position.limit_seconds)
    if damage is not None and not held:
        again = f"{command} {damage.option}" if damage.option else None
        return replace(now, state="damaged", command=again, error=damage.reason)
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
        resumes = fold.checkpoint("latest").is_file()
        return replace(now, state="trained", command=command if resumes else f"{command} --val")
    labels = {name: one.dice for name, one in summary.labels.items()}
    return replace(now, state="validated", dice=summary.mean.dice, labels=labels, command=None, error=None)


def train_status(root: Path, dataset: str, preset: Preset, resolution: Resolution, fold: str) -> FoldStatus:
    """The state of a fold that `tds_train` trains. dataset: its folder's name."""
    command = command_line("tds_train", dataset, fold, preset=preset, resolution=resolution, root=root)
    return fold_status(FoldFolder.of(root, dataset, preset, fold, resolution), command)


def _left(position: TrainingPosition | None) -> float | None:
    """The seconds that a training needs from its last checkpoint on; None if it is over, or not known."""
    if position is None or position.finished or not position.iteration:
        return None
    if position.limit_seconds is not None:
        return max(0.0, position.limit_seconds - position.seconds)
    return position.seconds / position.iteration * (position.total - position.iteration)
