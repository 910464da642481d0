"""`describe`: what a trained model segments, how well, and what it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.geometry import Spacing, Triple
from plans.layout import ALL, FoldFolder
from plans.planning.memory import network_of, parameters
from textdiffseg.arguments import path_of
from textdiffseg.evaluation.means import mean_of_defined
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.changed import current_scores
from textdiffseg.folds.ensemble import chosen_folds
from textdiffseg.folds.find import find_model, folds_with_checkpoint, is_fold
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import refuse_other_plan
from textdiffseg.folds.postprocessing import Postprocessing, postprocessing_of
from textdiffseg.folds.sampling import chosen_sampling
from textdiffseg.folds.state import why_unfinished
from textdiffseg.folds.weights import has_sampler
from textdiffseg.text.bank import TextBank


@dataclass(frozen=True)
class LabelInfo:
    """One label of a model."""

    name: str
    value: int  # in a mask
    phrasings: tuple[str, ...]  # the words that query it
    dice: float | None  # mean over the validated folds
    postprocessing: str  # of its masks, in words; "none" unless validation gained by one


@dataclass(frozen=True)
class FoldInfo:
    """One fold of a model."""

    name: str
    state: str  # "finished", or why it is not
    validated: bool
    cases: int  # scored validation cases
    dice: float | None  # mean over labels
    mirroring: bool | None  # whether validation chose it; None: nothing was chosen


@dataclass(frozen=True)
class ModelInfo:
    """A trained model."""

    folder: Path
    dataset: str
    preset: str
    channels: tuple[str, ...]
    labels: tuple[LabelInfo, ...]
    folds: tuple[FoldInfo, ...]
    spacing: Spacing  # mm, (D, H, W)
    patch: Triple  # voxels, (D, H, W)
    weights: int  # of one fold
    window_gb: float  # estimate for one window on the device
    host_gb: float  # estimate of host memory for the largest training case
    text_encoder: str  # that forced prompts need
    samples: bool  # whether it has a sampler: uncertainty and alternatives
    reads_texts: bool  # whether the text of a scan may be given


def describe(
    *,
    dataset: str | None = None,
    model: Path | str | None = None,
    root: Path | str = ".",
    preset: str | None = None,
) -> ModelInfo:
    """The description of a trained model, without loading its weights.

    Args:
        dataset, preset: the data set and the preset of the model below `root`.
        model: instead: the model's folder.
        root: holds results/.

    Raises `UserError` if there is not exactly one such model, or if one of its files is damaged.
    """
    folder = find_model(path_of(root), dataset, None if model is None else path_of(model), preset)
    folds = _described(folder)
    for fold in folds:
        refuse_other_plan(fold, "best")
    plan, bank = plan_of_fold(folds[0]), TextBank.load(folds[0].words)
    scores = [current_scores(fold) for fold in folds]
    scored = {fold.name: summary for fold, summary in zip(folds, scores, strict=True) if summary is not None}
    known = [one for name, one in scored.items() if name != ALL] or [*scored.values()]  # all: on training cases
    steps = postprocessing_of([folds])
    return ModelInfo(
        folder=folder,
        dataset=plan.dataset,
        preset=plan.preset,
        channels=tuple(channel.name for channel in plan.channels),
        labels=tuple(
            LabelInfo(
                name=label.name,
                value=label.value,
                phrasings=bank.phrasings[label.name],
                dice=_dice_of(known, label.name),
                postprocessing=str(steps.get(label.name, Postprocessing())),
            )
            for label in plan.labels
        ),
        folds=tuple(map(_fold_info, folds, scores)),
        spacing=plan.spacing,
        patch=plan.patch,
        weights=parameters(network_of(plan)),
        window_gb=plan.memory.prediction_gb,
        host_gb=plan.memory.ram_gb,
        text_encoder=plan.text.encoder,
        samples=all(map(has_sampler, folds)),
        reads_texts=plan.reads_texts,
    )


def _described(folder: Path) -> tuple[FoldFolder, ...]:
    """The trained folds. A fold that was stopped in its first epoch has no scores, and is left out if others exist."""
    own = [] if is_fold(folder) else folds_with_checkpoint(folder)
    names = [fold.name for fold in own if fold.checkpoint("best").is_file()]
    return chosen_folds(folder, names or None, "best", include_unfinished=True)


def _fold_info(fold: FoldFolder, summary: Summary | None) -> FoldInfo:
    """The description of a fold. `summary`: its scores, or None if it is not validated."""
    sampling = chosen_sampling(fold, "best")
    return FoldInfo(
        name=fold.name,
        state=why_unfinished(fold) or "finished",
        validated=summary is not None,
        cases=len(summary.cases) if summary else 0,
        dice=summary.mean.dice if summary else None,
        mirroring=sampling.mirroring if sampling else None,
    )


def _dice_of(summaries: Sequence[Summary], label: str) -> float | None:
    """The mean Dice of a label over folds; None if no fold scored it."""
    return mean_of_defined(summary.labels[label].dice for summary in summaries if label in summary.labels)
