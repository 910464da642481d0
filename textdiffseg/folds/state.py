"""The state of a fold: finished, validated, in training or interrupted. It is read from the fold's files.

A fold is finished if its training has ended; its validation may be missing. `checkpoint_latest` notes the position of
the training. A fold that was copied elsewhere may have only `checkpoint_best`, which notes the end too. A checkpoint of
an older version without this note counts as finished.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from plans.commands import command_line
from plans.errors import UserError
from plans.layout import CHECKPOINTS, Checkpoint, FoldFolder, root_of
from plans.records import Record, Upgrades
from textdiffseg.files import write_record
from textdiffseg.folds.lock import is_held
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import TrainingPosition, noted_position, read_position
from textdiffseg.folds.weights import hash_weights


class Validated(Record):
    """`validated.json`: the weights whose validation is finished, and what they found."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # the new field has a default
    checkpoint: Checkpoint = "best"
    weights: str  # hash of the checkpoint's file
    found: dict[str, float] | None = None  # by label: share of the validation cases with it in which it was found


def is_trained(fold: FoldFolder) -> bool:
    """Whether a fold has a checkpoint, in any state."""
    return any(fold.checkpoint(which).is_file() for which in CHECKPOINTS)


def position_of(fold: FoldFolder) -> TrainingPosition | None:
    """The position of a fold, from its latest checkpoint, else from its best one.

    None: no checkpoint notes one, or only a best one of an older version, which does not say whether its run has ended.
    """
    latest = noted_position(fold, "latest")
    if latest is not None:
        return latest
    best = noted_position(fold, "best")
    return None if best is None or best.cases is None else best


def why_unfinished(fold: FoldFolder) -> str | None:
    """The reason why a fold is not finished, in a few words; None if it is finished."""
    position = position_of(fold)
    done = "no checkpoint yet"
    if is_trained(fold):
        if position is None or position.finished:
            return None
        done = f"{position.iteration} of {position.total} iterations"
    return f"is in training ({done})" if is_held(fold.lock) else f"was interrupted ({done})"


def train_command(fold: FoldFolder) -> str:
    """The command line that resumes a fold."""
    plan = plan_of_fold(fold)
    return command_line(
        "tds_train", plan.dataset, fold.name, preset=plan.preset, resolution=plan.resolution, root=root_of(fold)
    )


def note_validated(fold: FoldFolder, found: Mapping[str, float] | None = None) -> None:
    """Note that the validation of the present weights is finished.

    `found`: for each label the share of the validation cases with it in which it was found.
    """
    if weights := hash_weights(fold, "best"):
        write_record(fold.validated, Validated(weights=weights, found=None if found is None else dict(found)))


def found_shares(fold: FoldFolder) -> dict[str, float] | None:
    """For each label the share of validation cases in which it was found; None: not validated, or not known."""
    return Validated.read(fold.validated).found if is_validated(fold) and fold.validated.is_file() else None


def is_validated(fold: FoldFolder) -> bool:
    """Whether the validation of the present weights is finished."""
    if not fold.summary.is_file():
        return False
    if fold.validated.is_file():
        try:
            return Validated.read(fold.validated).weights == hash_weights(fold, "best")
        except UserError:  # damaged: the validation writes it again
            return False
    position = read_position(fold)  # in older versions, the scores alone showed it
    return position is not None and position.cases is None
