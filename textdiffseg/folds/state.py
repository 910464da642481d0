"""What state a fold is in: finished, validated, in training or interrupted. It is read from the fold's own files.

A fold is finished when its training has ended; the validation may be missing. `checkpoint_latest` notes how far the
training came. A fold that is carried elsewhere may hold `checkpoint_best` alone, where the end is noted too. A
checkpoint from before that was noted counts as finished.
"""

from pathlib import Path
from typing import Literal

from plans.errors import UserError
from plans.layout import CHECKPOINTS, Checkpoint, FoldFolder, root_of
from plans.plan import Plan
from plans.records import Record
from textdiffseg.files import write_record
from textdiffseg.folds.lock import is_held
from textdiffseg.folds.progress import PROGRESS, TrainingProgress, parse_progress, read_progress
from textdiffseg.folds.weights import hash_weights, read_metadata


class Validated(Record):
    """`validated.json`: which weights were validated to the end."""

    version: Literal[1] = 1
    checkpoint: Checkpoint = "best"
    weights: str  # hash of the checkpoint's file


def is_trained(fold: FoldFolder) -> bool:
    """Whether a fold has a checkpoint, whatever its state."""
    return any(fold.checkpoint(which).is_file() for which in CHECKPOINTS)


def position_of(fold: FoldFolder) -> TrainingProgress | None:
    """How far the training of a fold came, by the first checkpoint that can say it; None where none can."""
    for which in ("latest", "best"):
        path = fold.checkpoint(which)
        metadata = read_metadata(path) if path.is_file() else {}
        if PROGRESS in metadata:
            position = parse_progress(path, metadata)
            old = which == "best" and position.cases is None
            return None if old else position
    return None


def why_unfinished(fold: FoldFolder) -> str | None:
    """Why a fold is not finished, in a few words; None where it is."""
    position, done = position_of(fold), "no checkpoint yet"
    if is_trained(fold):
        if position is None or position.finished:
            return None
        done = f"{position.iteration} of {position.total} iterations"
    return f"is in training ({done})" if is_held(fold.lock) else f"was interrupted ({done})"


def train_command(fold: FoldFolder) -> str:
    """The command that trains a fold further."""
    plan = Plan.read(fold.plan)
    preset = "" if plan.preset == "default" else f" --preset {plan.preset}"
    root = root_of(fold)
    at = "" if root is None or root.resolve() == Path.cwd() else f" --root {root}"
    return f"tds_train {plan.dataset} {fold.name}{preset}{at}"


def note_validated(fold: FoldFolder) -> None:
    """Note that the weights as they are now were validated to the end."""
    if weights := hash_weights(fold, "best"):
        write_record(fold.validated, Validated(weights=weights))


def is_validated(fold: FoldFolder) -> bool:
    """Whether the weights as they are now were validated to the end."""
    if not fold.summary.is_file():
        return False
    if fold.validated.is_file():
        try:
            return Validated.read(fold.validated).weights == hash_weights(fold, "best")
        except UserError:  # damaged: the validation writes it anew
            return False
    position = read_progress(fold)  # before that was noted, the scores alone showed it
    return position is not None and position.cases is None
