"""Whether the files of a fold can be read. Weights are not hashed: only their header and size are checked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from plans.errors import UserError
from plans.layout import CHECKPOINTS, FoldFolder
from textdiffseg.failures import failure_line
from textdiffseg.folds.calibration import Calibration
from textdiffseg.folds.cases import read_cases
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import noted_position
from textdiffseg.folds.postprocessing import PostprocessingTrials
from textdiffseg.folds.sampling import VALIDATE_AGAIN, Sampling
from textdiffseg.folds.state import is_trained, position_of
from textdiffseg.tasks.started import only_best
from textdiffseg.text.bank import TextBank
from textdiffseg.training.log import read_log

Option = Literal["--restart", "--val"]


@dataclass(frozen=True)
class Damage:
    """Why a fold can be neither resumed nor used as it is."""

    reason: str  # one line, with what to do
    option: Option | None  # of `tds_train`: it makes the damaged files again; None: the reason has the way out


def damage_of(fold: FoldFolder) -> Damage | None:
    """The first fault of a fold's files; None if there is none, or no checkpoint: it is then begun from the start."""
    if not is_trained(fold):
        return None
    return (
        _fault(_read_model, fold, "--restart")
        or _fault(_read_run, fold, None)  # the model is whole, so it must not be trained anew for them
        or _fault(_read_validation, fold, "--val")
    )


def _fault(read: Callable[[FoldFolder], object], fold: FoldFolder, option: Option | None) -> Damage | None:
    try:
        read(fold)
    except UserError as error:
        return Damage(error.lines[0], option)
    except OSError as error:
        return Damage(failure_line(error, resumes=True) or str(error), option)
    return None


def _read_model(fold: FoldFolder) -> None:
    """Raise an error if the model cannot be read, or if its run was not finished and cannot be resumed."""
    found = [which for which in CHECKPOINTS if fold.checkpoint(which).is_file()]
    faults = list(filter(None, (_fault(partial(noted_position, which=which), fold, None) for which in found)))
    if len(faults) == len(found):  # else one of them is made of the other, or is not needed
        raise UserError(faults[0].reason)
    plan_of_fold(fold)
    TextBank.load(fold.words)
    if "latest" not in found and (position := position_of(fold)) is not None and not position.finished:
        raise only_best(fold)


def _read_run(fold: FoldFolder) -> None:
    """Raise an error if a file cannot be read that only the training goes on with."""
    for which in CHECKPOINTS:
        noted_position(fold, which)
    read_cases(fold)
    read_log(fold.log)


def _read_validation(fold: FoldFolder) -> None:
    """Raise an error if a file that the validation writes cannot be read."""
    if fold.sampling.is_file():
        Sampling.read(fold.sampling, VALIDATE_AGAIN)
    if fold.calibration.is_file():
        Calibration.read(fold.calibration, VALIDATE_AGAIN)
    if fold.postprocessing.is_file():
        PostprocessingTrials.read(fold.postprocessing, VALIDATE_AGAIN)
