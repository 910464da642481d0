"""The position of a fold's training: how far it is, as noted in its checkpoints."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.records import Record, Upgrades
from textdiffseg.files import hash_files
from textdiffseg.folds.weights import read_metadata

SAMPLER_COST = 0.8  # the time of an iteration of the sampler, relative to one of all other modules, on a CPU
POSITION_KEY = "progress"  # in a checkpoint's metadata


class ScheduleStart(Record):
    """The position at the start of the learning rate's schedule: 0, unless a finished run was prolonged."""

    iteration: int = Field(0, ge=0)
    epoch: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)


class TrainingPosition(Record):
    """The position of a run: its length, and the iterations done.

    All random draws are functions of (seed, iteration) or (seed, epoch, index). So a run resumes exactly without the
    state of a generator.
    """

    version: Literal[6] = 6
    upgrades: ClassVar[Upgrades] = {1: dict, 2: dict, 3: dict, 4: dict, 5: dict}  # the new fields have defaults
    seed: int
    epochs: int = Field(gt=0)
    denoiser_share: float = Field(0.0, ge=0, lt=1)  # of the time, the last, in which only the sampler learns
    denoiser_cost: float = Field(SAMPLER_COST, gt=0)  # the time of its iteration, relative to one of all other modules
    denoiser_epoch: int | None = None  # the first epoch of that time; None: there is none
    denoiser_seconds: float = Field(0.0, ge=0)  # of training before that epoch
    denoiser_per_epoch: int | None = Field(None, gt=0)  # the iterations of its epochs; None: as many as those before
    iterations_per_epoch: int = Field(gt=0)  # since `start`
    iteration: int = Field(0, ge=0)  # iterations done
    sums: dict[str, float] = Field(default_factory=dict)  # losses, summed over the running epoch
    best: float = -1.0  # best mean validation Dice so far
    seconds: float = 0.0  # of training so far
    limit_seconds: float | None = None  # of the whole run
    start: ScheduleStart = ScheduleStart()
    cases: str | None = None  # hash of the fold's cases (`folds.cases`); None: written by an older version
    plan: str | None = None  # hash of the fold's plan.json; None: written by an older version
    initial: str | None = None  # hash of the weights that the run started from; None: random ones
    ended: bool = False  # in checkpoint_best: its run has ended

    @property
    def epoch(self) -> int:
        """The running epoch, 0-based."""
        split = self.sampler_iteration
        if self.denoiser_epoch is not None and split is not None and self.iteration >= split:
            return self.denoiser_epoch + (self.iteration - split) // self._sampler_per_epoch
        return self.start.epoch + (self.iteration - self.start.iteration) // self.iterations_per_epoch

    @property
    def in_epoch(self) -> int:
        """The iterations done in the running epoch."""
        return self.iteration - self._first_iteration(self.epoch)

    @property
    def epoch_iterations(self) -> int:
        """The iterations of the running epoch."""
        return self._sampler_per_epoch if self.trains_sampler else self.iterations_per_epoch

    @property
    def total(self) -> int:
        """The iterations of the whole run."""
        return self._first_iteration(self.epochs)

    @property
    def sampler_iteration(self) -> int | None:
        """The first iteration in which only the sampler learns; None: there is none."""
        return None if self.denoiser_epoch is None else self._first_iteration(self.denoiser_epoch)

    @property
    def trains_sampler(self) -> bool:
        """Whether only the sampler learns now, or learned at the end of a finished run."""
        return self.denoiser_epoch is not None and self.epoch >= self.denoiser_epoch

    @property
    def sampler_iterations(self) -> int:
        """The iterations done in which only the sampler learned."""
        first = self.sampler_iteration
        return 0 if first is None else max(0, self.iteration - first)

    @property
    def schedule(self) -> tuple[int, int]:
        """The iterations of the learning rate's schedule: those done, and all. The sampler has its own schedule."""
        split = self.sampler_iteration
        if split is None:
            first, last = self.start.iteration, self.total
        else:
            first, last = (split, self.total) if self.trains_sampler else (self.start.iteration, split)
        return self.iteration - first, last - first

    @property
    def finished(self) -> bool:
        """Whether every iteration is done."""
        return self.ended or self.iteration >= self.total

    @property
    def _sampler_per_epoch(self) -> int:
        return self.denoiser_per_epoch or self.iterations_per_epoch

    def _first_iteration(self, epoch: int) -> int:
        masks = epoch if self.denoiser_epoch is None else min(epoch, self.denoiser_epoch)
        before = self.start.iteration + (masks - self.start.epoch) * self.iterations_per_epoch
        return before + (epoch - masks) * self._sampler_per_epoch

    def after(self, **changes: object) -> "TrainingPosition":
        """The same record with some fields changed."""
        return self.model_copy(update=changes)


def read_position(fold: FoldFolder, which: str = "latest") -> TrainingPosition | None:
    """How far a fold was trained when its checkpoint was written; None if there is no checkpoint."""
    path = fold.checkpoint(which)
    return parse_position(path, read_metadata(path)) if path.exists() else None


def parse_position(path: Path, metadata: dict[str, str]) -> TrainingPosition:
    """The position in a checkpoint's metadata; `UserError` names `path`."""
    return TrainingPosition.parse_json(metadata.get(POSITION_KEY, "null"), f"{path}, metadata")


def noted_position(fold: FoldFolder, which: str) -> TrainingPosition | None:
    """The position that a checkpoint notes; None if it is missing, or of a version or program that notes none."""
    path = fold.checkpoint(which)
    metadata = read_metadata(path) if path.is_file() else {}
    return parse_position(path, metadata) if POSITION_KEY in metadata else None


def refuse_other_plan(fold: FoldFolder, checkpoint: str) -> None:
    """Raise `UserError` if plan.json was changed since the training of a checkpoint, by accident or by hand."""
    position = noted_position(fold, checkpoint)
    if position is not None and position.plan is not None and position.plan != hash_files([fold.plan]):
        raise UserError(
            f"{fold.plan} is not the plan that this fold was trained with. Copy the fold again, or put its plan back."
        )
