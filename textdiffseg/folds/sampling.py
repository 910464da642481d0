"""The sampling settings of a prediction, and the choice that validation made among them (`sampling.json`)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from plans.errors import UserError
from plans.layout import Checkpoint, FoldFolder
from plans.plan import Plan
from plans.records import Record, Upgrades
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.weights import hash_weights

VALIDATE_AGAIN = "Copy the file again, or validate the fold again: tds_train --val."
MIN_DICE_GAIN = 0.001  # of a more expensive setting; mirroring gains .001 to .004 on hippocampus
DENOISE, DECODE = 0.25, 0.5  # the time of a step and of a sample, as shares of the mask's pass, on a CPU
ALTERNATIVE_SAMPLES = 16  # from which `--alternatives` chooses
MIN_SAMPLES = 8  # for uncertainty
FAST_OVERLAP = 0.375  # a whole CT has 1.7 times fewer windows; Dice .002 lower on head and neck (docs/figures.md)

Effort = Literal["fast", "chosen", "best"]
"""How much time masks may take: `fast` is the cheapest, `chosen` and `best` are those of validation."""


class PredictionSettings(Record):
    """The settings that change a prediction, besides the model and the scan."""

    steps: int = Field(0, ge=0)  # of DDIM; 0: the mask of the single pass, without diffusion
    samples: int = Field(1, ge=1)  # whose probabilities are averaged
    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()  # all subsets of these axes are averaged
    overlap: float = Field(0.5, ge=0, lt=1)  # of neighbouring windows along each axis
    seed: int = Field(0, ge=0)

    @property
    def passes(self) -> float:
        """The time of a window, in plain passes (the mask, no mirroring)."""
        return _passes(self.steps, self.samples, len(self.mirror_axes))


class SamplingChoice(Record):
    """The steps, samples and mirroring of a prediction. Validation chooses one, and calibrates for it."""

    steps: int = Field(ge=0)
    samples: int = Field(ge=1)
    mirroring: bool

    @property
    def key(self) -> tuple[int, int, bool]:
        """The key for comparison with other choices."""
        return self.steps, self.samples, self.mirroring


class Trial(SamplingChoice):
    """One row of the table of compared settings."""

    dice: float | None  # mean over labels and validation cases; None if no label could be scored
    seconds: float = Field(ge=0)  # per case, on the machine of the validation


class BoundToWeights(Record):
    """A choice or a fit for certain weights. It is used only with these weights."""

    checkpoint: Checkpoint = "best"
    weights: str | None = None  # hash of the checkpoint's file; None: written by an older version

    def belongs_to(self, fold: FoldFolder, checkpoint: str) -> bool:
        """Whether this was made for a fold's present checkpoint."""
        if self.checkpoint != checkpoint:
            return False
        return self.weights is None or self.weights == hash_weights(fold, checkpoint)


class Sampling(SamplingChoice, BoundToWeights):
    """`sampling.json`: the default sampling of predictions, and the table of compared settings."""

    version: Literal[2] = 2
    upgrades: ClassVar[Upgrades] = {1: lambda fields: {"mirroring": True} | fields}
    steps: int = Field(0, ge=0)
    samples: int = Field(1, ge=1)
    mirroring: bool = False
    cases: int = Field(0, ge=0)  # validation cases behind the table
    table: tuple[Trial, ...] = ()


def settings_of_choice(plan: Plan, choice: SamplingChoice, seed: int = 0) -> PredictionSettings:
    """The settings of a sampling choice, for a plan."""
    axes = plan.mirror_axes if choice.mirroring else ()
    return PredictionSettings(steps=choice.steps, samples=choice.samples, mirror_axes=axes, seed=seed)


def mask_settings(
    plan: Plan,
    sampling: Sampling,
    *,
    steps: int | None = None,
    samples: int | None = None,
    mirroring: bool = True,
    seed: int = 0,
    effort: Effort = "chosen",
) -> PredictionSettings:
    """The settings for masks: validation's choice, with `steps` and `samples` of the user if given.

    With `effort` best: the setting with the best Dice in validation, however much time it takes. With fast: no
    mirroring, and fewer windows (`FAST_OVERLAP`).

    With `steps` or `samples`, the mask is the mean of diffusion samples. Without them, presets `default` and `unet`
    take the single pass.
    Raises `UserError` if the model cannot use so many.
    """
    if (steps is not None or samples is not None) and plan.sample_steps is None:
        raise UserError(f"--steps, --samples: this model (preset {plan.preset}) has no diffusion. Leave both out.")
    if plan.max_steps is not None and (steps or 1) > plan.max_steps:
        raise UserError(f"--steps: the model has {plan.max_steps} time steps, found {steps}.")
    if effort == "best":
        sampling = _best(sampling)
    sampled = plan.sample_steps if steps is not None or samples is not None else None
    chosen = sampling.model_copy(
        update={
            "steps": steps or sampled or sampling.steps,
            "samples": samples or sampling.samples,
            "mirroring": sampling.mirroring and mirroring and effort != "fast",
        }
    )
    settings = settings_of_choice(plan, chosen, seed)
    return settings.model_copy(update={"overlap": FAST_OVERLAP}) if effort == "fast" else settings


def _best(sampling: Sampling) -> Sampling:
    """The choice with the setting that has the best Dice in its table; itself without a table."""
    scored = [(row.dice, row) for row in sampling.table if row.dice is not None]
    if not scored:
        return sampling
    _, row = max(scored, key=lambda pair: pair[0])
    return sampling.model_copy(update={"steps": row.steps, "samples": row.samples, "mirroring": row.mirroring})


def uncertainty_settings(plan: Plan, settings: PredictionSettings, folds: int = 1) -> PredictionSettings:
    """The settings for uncertainty: those of masks, with the steps of a sample and at least `MIN_SAMPLES` samples.

    Mirroring is left out. Noise is not flipped with the image, so mirrored views are separate samples, and their mean
    has lost most of the spread. Without diffusion only folds can disagree. Then the predictions of the masks are used.
    Raises `UserError` if nothing can disagree.
    """
    if plan.sample_steps is not None:
        enough = {"steps": settings.steps or plan.sample_steps, "samples": max(settings.samples, MIN_SAMPLES)}
        return settings.model_copy(update=enough | {"mirror_axes": ()})
    if folds < 2:
        raise UserError(
            f"--uncertainty: this model (preset {plan.preset}) has no diffusion and one fold is used, so nothing can "
            "disagree. Train more folds, or the preset default."
        )
    return settings


def alternative_settings(plan: Plan, settings: PredictionSettings) -> PredictionSettings:
    """The settings for alternatives: those of uncertainty, with `ALTERNATIVE_SAMPLES` samples.

    Raises `UserError` if the model has no diffusion, and thus no samples.
    """
    if plan.sample_steps is None:
        raise UserError(
            f"--alternatives: this model (preset {plan.preset}) has no diffusion, so it has no samples to choose from. "
            "Leave it out, or train the preset default."
        )
    return uncertainty_settings(plan, settings).model_copy(update={"samples": ALTERNATIVE_SAMPLES})


def _passes(steps: int, samples: int, mirror_axes: int) -> float:
    """The time of a window in plain passes, with a number of mirrored axes."""
    sampling = samples * (steps * DENOISE + DECODE) if steps else 0.0
    return 2**mirror_axes * (1 + sampling)


def choose(table: Sequence[Trial], axes: int) -> Trial:
    """The fastest row whose Dice is within `MIN_DICE_GAIN` of the best. Without any Dice, the fastest row."""
    best = max((row.dice for row in table if row.dice is not None), default=None)
    good = [row for row in table if best is None or (row.dice is not None and row.dice >= best - MIN_DICE_GAIN)]
    return min(good, key=lambda row: _passes(row.steps, row.samples, axes if row.mirroring else 0))


def pool(choices: Sequence[Sampling], axes: int) -> Sampling:
    """The choice for an ensemble: `choose` on the rows that all folds have, averaged by number of cases.

    Folds with fewer rows than others do not vote: their validation had no time for all trials.
    """
    most = max(len(choice.table) for choice in choices)
    choices = [choice for choice in choices if len(choice.table) == most]
    if len(choices) == 1:
        return choices[0]
    tables = [{row.key: row for row in choice.table} for choice in choices]
    common = [key for key in tables[0] if all(key in table for table in tables)]
    weights = [choice.cases for choice in choices]
    rows = [_averaged([table[key] for table in tables], weights) for key in common]
    if not rows:
        return choices[0]
    row = choose(rows, axes)
    return Sampling(
        steps=row.steps, samples=row.samples, mirroring=row.mirroring, cases=sum(weights), table=tuple(rows)
    )


def _averaged(rows: Sequence[Trial], weights: Sequence[int]) -> Trial:
    """The mean of the folds' rows of one setting. Folds without a weight or a Dice do not count."""
    scored = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight and row.dice is not None]
    total = sum(weight for _, weight in scored)
    dice = sum(weight * (row.dice or 0.0) for row, weight in scored) / total if total else None
    seconds = sum(weight * row.seconds for row, weight in scored) / total if total else 0.0
    return rows[0].model_copy(update={"dice": dice, "seconds": seconds})


def read_sampling(fold: FoldFolder) -> Sampling:
    """Validation's choice for a fold's best checkpoint, else `plain_sampling`."""
    return chosen_sampling(fold, "best") or plain_sampling(plan_of_fold(fold))


def chosen_sampling(fold: FoldFolder, checkpoint: str) -> Sampling | None:
    """Validation's choice for a fold's checkpoint; None if there is none, or only one for other weights."""
    sampling = Sampling.read(fold.sampling, VALIDATE_AGAIN) if fold.sampling.is_file() else None
    return sampling if sampling is not None and sampling.belongs_to(fold, checkpoint) else None


def plain_sampling(plan: Plan) -> Sampling:
    """The sampling if nothing was chosen: the mask's steps, no mirroring."""
    return Sampling(steps=plan.mask_steps)
