"""How a prediction is made: the settings, and the choice among them that validation made (`sampling.json`)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from plans.errors import UserError
from plans.layout import Checkpoint, FoldFolder
from plans.plan import Plan
from plans.records import Record, Upgrades
from textdiffseg.folds.weights import hash_weights

WORTH = 0.001  # mean Dice that a dearer setting has to gain; mirroring gains .001 to .004 on hippocampus
# What a window takes, as shares of one plain pass on a CPU: once a view; a step; a sample.
ENCODE, DENOISE, DECODE = 0.4, 0.3, 0.3
MIN_STEPS, MIN_SAMPLES = 4, 8  # for uncertainty: one step from pure noise is the mean, without any spread


class Settings(Record):
    """Everything that changes a prediction, the model and the scan apart."""

    steps: int = Field(1, ge=1)  # of DDIM
    samples: int = Field(1, ge=1)  # whose probabilities are averaged
    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()  # all subsets of these axes are averaged
    overlap: float = Field(0.5, ge=0, lt=1)  # of neighbouring windows along each axis
    seed: int = Field(0, ge=0)

    @property
    def passes(self) -> float:
        """Time that a window takes, in plain passes: one step, one sample, no mirroring."""
        return 2 ** len(self.mirror_axes) * (ENCODE + self.samples * (self.steps * DENOISE + DECODE))


class Setting(Record):
    """What validation chooses among, and calibrates for."""

    steps: int = Field(ge=1)
    samples: int = Field(ge=1)
    mirroring: bool

    @property
    def key(self) -> tuple[int, int, bool]:
        """What makes two settings the same."""
        return self.steps, self.samples, self.mirroring

    def cost(self, axes: int) -> int:
        """Decoder passes and steps a window, the unit in which settings are compared."""
        return (self.samples * self.steps) * (2**axes if self.mirroring else 1)


class Trial(Setting):
    """One row of the table that a choice rests on."""

    dice: float | None  # mean over labels and validation cases; None where no label could be scored
    seconds: float = Field(ge=0)  # a case, on the machine that measured


class Fitted(Record):
    """Which weights a choice or a fit was made with. It is used with these alone."""

    checkpoint: Checkpoint = "best"
    weights: str | None = None  # hash of the checkpoint's file; None: fitted before it was noted

    def belongs_to(self, fold: FoldFolder, checkpoint: str) -> bool:
        """Whether it was fitted to this checkpoint of a fold, as it is now."""
        if self.checkpoint != checkpoint:
            return False
        return self.weights is None or self.weights == hash_weights(fold, checkpoint)


class Sampling(Setting, Fitted):
    """`sampling.json`: what prediction does by default, and the table that led there."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: lambda fields: {"mirroring": True} | fields}
    steps: int = Field(1, ge=1)
    samples: int = Field(1, ge=1)
    mirroring: bool = False
    cases: int = Field(0, ge=0)  # validation cases behind the table
    table: tuple[Trial, ...] = ()

    @property
    def seconds(self) -> float:
        """What a case took with this choice; 0 where it rests on no table."""
        return sum(row.seconds for row in self.table if row.key == self.key)


def settings_of(plan: Plan, setting: Setting, seed: int = 0) -> Settings:
    """The settings that a choice of sampling means for a plan."""
    axes = plan.mirror_axes if setting.mirroring else ()
    return Settings(steps=setting.steps, samples=setting.samples, mirror_axes=axes, seed=seed)


def settings_for(
    plan: Plan,
    sampling: Sampling,
    *,
    steps: int | None = None,
    samples: int | None = None,
    mirroring: bool = True,
    seed: int = 0,
) -> Settings:
    """What validation chose for masks, with the user's own `steps` and `samples` where given.

    Raises `UserError` where the model cannot take so many.
    """
    if plan.diffusion is None and (steps or 1, samples or 1) != (1, 1):
        raise UserError(f"--steps, --samples: this model (preset {plan.preset}) has no diffusion. Leave both out.")
    if plan.diffusion is not None and (steps or 1) > plan.diffusion.timesteps:
        raise UserError(f"--steps: the model has {plan.diffusion.timesteps} time steps, found {steps}.")
    chosen = sampling.model_copy(
        update={
            "steps": steps or sampling.steps,
            "samples": samples or sampling.samples,
            "mirroring": sampling.mirroring and mirroring,
        }
    )
    return settings_of(plan, chosen, seed)


def settings_of_uncertainty(plan: Plan, settings: Settings, folds: int = 1) -> Settings:
    """How uncertainty is measured beside masks made with `settings`: the same noise, but steps and samples enough.

    Mirroring is left out: noise is not flipped with the image, so that mirrored views are samples of their own, and
    their mean has lost most of the spread. Without diffusion only folds can disagree, so that masks' own predictions
    serve. Raises `UserError` where nothing can disagree.
    """
    if plan.diffusion is not None:
        enough = {"steps": max(settings.steps, MIN_STEPS), "samples": max(settings.samples, MIN_SAMPLES)}
        return settings.model_copy(update=enough | {"mirror_axes": ()})
    if folds < 2:
        raise UserError(
            f"--uncertainty: this model (preset {plan.preset}) has no diffusion and one fold is used, so nothing can "
            "disagree. Train more folds, or the preset default."
        )
    return settings


def choose(table: Sequence[Trial], axes: int) -> Trial:
    """The cheapest row whose Dice is within `WORTH` of the best; the first of the cheapest without any Dice."""
    best = max((row.dice for row in table if row.dice is not None), default=None)
    good = [row for row in table if best is None or (row.dice is not None and row.dice >= best - WORTH)]
    return min(good, key=lambda row: row.cost(axes))


def pool(choices: Sequence[Sampling], axes: int) -> Sampling:
    """One choice for an ensemble: the same rule on the rows that all folds measured, weighted by their cases."""
    if len(choices) == 1:
        return choices[0]
    tables = [{row.key: row for row in choice.table} for choice in choices]
    common = [key for key in tables[0] if all(key in table for table in tables)]
    weights = [choice.cases for choice in choices]
    rows = []
    for key in common:
        measured = [table[key] for table in tables]
        scored = [
            (weight, row.dice, row.seconds)
            for weight, row in zip(weights, measured, strict=True)
            if weight and row.dice is not None
        ]
        total = sum(weight for weight, _, _ in scored)
        steps, samples, mirroring = key
        rows.append(
            Trial(
                steps=steps,
                samples=samples,
                mirroring=mirroring,
                dice=sum(weight * dice for weight, dice, _ in scored) / total if total else None,
                seconds=sum(weight * seconds for weight, _, seconds in scored) / total if total else 0.0,
            )
        )
    if not rows:
        return choices[0]
    row = choose(rows, axes)
    return Sampling(
        steps=row.steps, samples=row.samples, mirroring=row.mirroring, cases=sum(weights), table=tuple(rows)
    )


def read_sampling(fold: FoldFolder, checkpoint: str = "best") -> Sampling:
    """What validation chose for a checkpoint of a fold; where it has not, `plain_sampling`."""
    return chosen_sampling(fold, checkpoint) or plain_sampling(Plan.read(fold.plan))


def chosen_sampling(fold: FoldFolder, checkpoint: str) -> Sampling | None:
    """What validation chose for a checkpoint of a fold; None where it has not, or for other weights."""
    sampling = Sampling.read(fold.sampling) if fold.sampling.is_file() else None
    return sampling if sampling is not None and sampling.belongs_to(fold, checkpoint) else None


def plain_sampling(plan: Plan) -> Sampling:
    """The sampling where nothing was chosen: the steps that the plan fixes, or one; no mirroring."""
    return Sampling(steps=plan.diffusion.steps) if plan.diffusion and plan.diffusion.steps else Sampling()
