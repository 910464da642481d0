"""Checks that folds belong together: equal plans but for training, equal words, and no copies."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from plans.errors import UserError
from plans.fields import ONLY_TRAINING
from plans.layout import Checkpoint, FoldFolder
from plans.plan import Plan
from textdiffseg.folds.cases import refuse_copies
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import refuse_other_plan
from textdiffseg.text.bank import TextBank


def check_together(folds: Sequence[FoldFolder]) -> None:
    """Raise `UserError` if the best checkpoints of these folds of one model are not an ensemble."""
    read_together([folds], {fold: plan_of_fold(fold) for fold in folds}, "best")


def read_together(
    models: Collection[Sequence[FoldFolder]], plans: Mapping[FoldFolder, Plan], checkpoint: Checkpoint
) -> list[TextBank]:
    """The words of all folds, in the order of `models`.

    Raises `UserError` if the folds of a model are not an ensemble, or if the models have other words.
    """
    for folds in models:
        _check_agreement(folds, [plans[fold] for fold in folds])
    together = [fold for folds in models for fold in folds]
    for fold in together:
        refuse_other_plan(fold, checkpoint)
    banks = [TextBank.load(fold.words) for fold in together]
    check_words([fold.text_bank for fold in together], [plans[fold] for fold in together], banks)
    for folds in models:
        refuse_copies(folds, checkpoint)
    return banks


def _check_agreement(folds: Sequence[FoldFolder], plans: Sequence[Plan]) -> None:
    """Raise `UserError` if the plans differ in more than training. Inputs and outputs must be equal."""
    for fold, plan in zip(folds[1:], plans[1:], strict=True):
        if fields := differences(plans[0], plan):
            raise UserError(
                f"{fold.plan} differs from {folds[0].plan} in {', '.join(fields)}: these folds are not "
                "an ensemble. Choose among them with --folds."
            )


def differences(first: Plan, second: Plan) -> list[str]:
    """The fields of two plans that differ in more than training."""
    excluded = dict.fromkeys(ONLY_TRAINING, True) | {"diffusion": {"share"}}
    ours, theirs = (plan.model_dump(exclude=excluded) for plan in (first, second))
    return [name for name in ours if ours[name] != theirs[name]]


def check_words(files: Sequence[Path], plans: Sequence[Plan], banks: Sequence[TextBank]) -> None:
    """Raise `UserError` if the phrasings of a file do not fit its plan, or differ from those of the first file."""
    for file, plan, bank in zip(files, plans, banks, strict=True):
        if bank.labels != tuple(label.name for label in plan.labels) or bank.width != plan.text.width:
            raise UserError(
                f"{file} does not belong to the plan beside it (other labels or another "
                "width). Put the plan back, or run tds_plan_and_preprocess again."
            )
        if not bank.space.is_of(plan.text.encoder, None):
            raise UserError(
                f"{file} holds vectors of the text encoder {bank.space.encoder!r}, and the plan beside it was made for "
                f"{plan.text.encoder!r}. Run tds_plan_and_preprocess again; in a trained fold, copy the fold again "
                "or train it with --restart."
            )
        if bank.words != banks[0].words:
            raise UserError(
                f"{file} holds other phrasings than that of {files[0].parent}: these folds are not "
                "an ensemble. Choose among them with --folds, or a model with -m."
            )
        if not bank.space.agrees(banks[0].space):
            raise UserError(
                f"{file} belongs to another text space than {files[0].parent}: these folds are not an "
                "ensemble. Choose among them with --folds, or a model with -m."
            )
