"""The models that `tds_find_best` chose for a data set (`best.json`), and which models can be averaged.

Several models are averaged as if they were folds of one: their probabilities have one grid and the same labels.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from plans.errors import UserError, listed
from plans.fields import SHARED_IF_AVERAGED
from plans.layout import ALL, best_models, fold_folders
from plans.plan import Plan
from plans.records import Record
from textdiffseg.folds.state import Validated


class Candidate(Record):
    """One model or several averaged ones, with scores on the common validation cases.

    The difference is its mean Dice minus that of the best single model. It is None for this model.
    """

    models: tuple[str, ...]
    dice: float | None
    nsd: float | None
    difference: float | None = None
    interval_95: tuple[float, float] | None = None  # of the difference


class BestModels(Record):
    """`best.json`: the chosen models and the candidates that were compared, the best first."""

    version: Literal[1] = 1
    dataset: str
    models: tuple[str, ...]  # names of the folders beside the file
    cases: int  # validation cases that all candidates have
    candidates: tuple[Candidate, ...]
    folds: dict[str, str] | None = None  # by MODEL/fold_N, hash of its validated weights; None: an older file


def read_choice(results: Path) -> BestModels | None:
    """The record of the chosen models; None if none were chosen."""
    path = best_models(results)
    return BestModels.read(path, "Run tds_find_best again, or delete the file.") if path.is_file() else None


def read_best(results: Path) -> tuple[Path, ...]:
    """The folders of the models that were chosen among the results of a data set; () if none were.

    Raises `UserError` if one of them is not there.
    """
    path, choice = best_models(results), read_choice(results)
    if choice is None:
        return ()
    folders = tuple(results / name for name in choice.models)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(
            f"{path} names {missing[0].name}, which is not there. Run tds_find_best again, or choose a model with -m."
        )
    return folders


def validated_weights(results: Path, models: Iterable[str]) -> dict[str, str]:
    """The hash of the weights that each fold's last validation scored, by MODEL/fold_N."""
    folds = (fold for model in sorted(models) for fold in fold_folders(results / model))
    weights = {}
    for fold in folds:
        with suppress(UserError):  # damaged: not validated
            if fold.name != ALL and fold.validated.is_file():
                weights[f"{fold.path.parent.name}/{fold.path.name}"] = Validated.read(fold.validated).weights
    return weights


def why_outdated(results: Path) -> str | None:
    """A line if folds were validated or removed since `tds_find_best` has compared them; None: the choice holds."""
    path, record = best_models(results), read_choice(results)
    if record is None or record.folds is None:
        return None
    now = validated_weights(results, {name for candidate in record.candidates for name in candidate.models})
    changed = [fold for fold in sorted({*now, *record.folds}) if now.get(fold) != record.folds.get(fold)]
    if not changed:
        return None
    return f"The choice in {path} is out of date: {listed(changed)} changed. Run tds_find_best again."


def why_not_averaged(plans: Sequence[Plan]) -> str | None:
    """The fields in which the plans of several models differ, so that they cannot be averaged; None: they can be."""
    differing = [
        name for name in SHARED_IF_AVERAGED if any(getattr(plan, name) != getattr(plans[0], name) for plan in plans)
    ]
    return ", ".join(differing) or None
