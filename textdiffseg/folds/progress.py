"""Where the training of a fold stands, as its checkpoints note it."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from plans.layout import FoldFolder
from plans.records import Record, Upgrades
from textdiffseg.folds.weights import read_metadata

PROGRESS = "progress"  # its key in a checkpoint's metadata


class ScheduleStart(Record):
    """What was done when the learning rate began to warm up: nothing, unless a finished run was prolonged."""

    iteration: int = Field(0, ge=0)
    epoch: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)


class TrainingProgress(Record):
    """Where a run stands. All randomness is a function of (seed, iteration) or (seed, epoch, index), so no
    generator's state is needed to go on exactly."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # the new fields have defaults
    seed: int
    epochs: int = Field(gt=0)
    iterations_per_epoch: int = Field(gt=0)  # since `start`
    iteration: int = Field(0, ge=0)  # iterations done
    sums: dict[str, float] = Field(default_factory=dict)  # losses summed over the running epoch
    best: float = -1.0  # best mean validation Dice so far
    seconds: float = 0.0  # spent in training so far
    limit_seconds: float | None = None  # that the whole run may take
    start: ScheduleStart = ScheduleStart()
    cases: str | None = None  # hash of the fold's cases (`folds.cases`); None: written before there was one
    ended: bool = False  # in checkpoint_best: the run that it comes from has ended

    @property
    def epoch(self) -> int:
        """The running epoch, 0-based."""
        return self.start.epoch + (self.iteration - self.start.iteration) // self.iterations_per_epoch

    @property
    def in_epoch(self) -> int:
        """Iterations done in the running epoch."""
        return (self.iteration - self.start.iteration) % self.iterations_per_epoch

    @property
    def total(self) -> int:
        """Iterations of the whole run."""
        return self.start.iteration + (self.epochs - self.start.epoch) * self.iterations_per_epoch

    @property
    def schedule(self) -> tuple[int, int]:
        """Iterations of the learning rate's schedule that are done, and all of it."""
        return self.iteration - self.start.iteration, self.total - self.start.iteration

    @property
    def finished(self) -> bool:
        """Whether every iteration is done."""
        return self.ended or self.iteration >= self.total

    def in_time(self) -> "TrainingProgress":
        """At the end of an epoch: with as many epochs as fill `limit_seconds` at the pace of those done so far.

        A machine that others use, too, may become slower or faster; the learning rate follows the new length. The
        last epoch, which takes the rate down to 0, is never left out, and none is added to it.
        """
        if self.limit_seconds is None or self.epochs - self.epoch <= 1:
            return self
        begun = self.start
        pace = (self.epoch - begun.epoch) / (self.seconds - begun.seconds)
        epochs = begun.epoch + round((self.limit_seconds - begun.seconds) * pace)
        return self.after(epochs=max(self.epoch + 1, epochs))

    def prolonged(self, **changes: object) -> "TrainingProgress":
        """A finished run with a new end: the learning rate warms up again and decays."""
        start = ScheduleStart(iteration=self.iteration, epoch=self.epoch, seconds=self.seconds)
        return self.after(start=start, **changes)

    def after(self, **changes: object) -> "TrainingProgress":
        """The same record with some fields changed."""
        return self.model_copy(update=changes)


def read_progress(fold: FoldFolder, which: str = "latest") -> TrainingProgress | None:
    """Where the run of a fold stood when a checkpoint was written; None without that checkpoint."""
    path = fold.checkpoint(which)
    return parse_progress(path, read_metadata(path)) if path.exists() else None


def parse_progress(path: Path, metadata: dict[str, str]) -> TrainingProgress:
    """The progress in a checkpoint's metadata; `UserError` names `path`."""
    return TrainingProgress.parse_json(metadata.get(PROGRESS, "null"), f"{path}, metadata")
