"""Join folds that were trained on several machines in one results folder."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.choices import Preset, Resolution
from plans.errors import UserError, listed
from plans.layout import ALL, CHECKPOINTS, FOLD, FoldFolder, model_folder
from plans.plan import Plan
from textdiffseg.arguments import path_of, several
from textdiffseg.files import hash_each, temporary_folder
from textdiffseg.folds.agreement import check_together
from textdiffseg.folds.cases import FoldCases, refuse_strange_checkpoints
from textdiffseg.folds.find import folders_below, folds_with_checkpoint, is_fold
from textdiffseg.folds.lock import alone
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.state import is_validated, why_unfinished
from textdiffseg.leftovers import sweep
from textdiffseg.progress import Report, silent
from textdiffseg.tasks.fold_status import FoldStatus, train_status
from textdiffseg.tasks.status import name_of


@dataclass(frozen=True)
class JoinedFolds:
    """The folds in the results folder of a preset."""

    model: Path
    copied: tuple[str, ...]  # the names of folds that were copied now
    folds: tuple[FoldStatus, ...]


def finalize(
    dataset: str | Path,
    sources: Sequence[str | Path],
    *,
    root: str | Path = ".",
    preset: Preset | None = None,
    resolution: Resolution = "full",
    report: Report = silent,
) -> JoinedFolds:
    """The folds of a data set, with those of other results folders copied beside them.

    Args:
        dataset: id, name or folder's name. It may also be the name of the trained data set, if only its folds are here.
        sources: folders of folds: one fold, a model, results/DATASET, or a whole root.
        root: the folder that holds raw/, preprocessed/ and results/.
        preset, resolution: of the folds. preset None: the only one among them.

    Nothing is copied unless all folds fit together. Raises `UserError` for folds of another data set or another plan,
    for unfinished folds, and for two different trainings of one fold.
    """
    root = path_of(root)
    found = _found([path_of(source) for source in several(sources)])
    plans = {fold: plan for fold in found if (plan := plan_of_fold(fold)).resolution == resolution}
    if not plans:
        raise UserError(f"None of these folders holds a fold of {resolution} resolution. Give other folders.")
    name, preset = _name(str(dataset), root, plans), preset or _only_preset(plans)
    chosen = [fold for fold in plans if plans[fold].preset == preset]
    faults = [
        f"{fold.path} is a fold of {plans[fold].dataset}, not of {name}. Leave it out."
        for fold in chosen
        if plans[fold].dataset != name
    ]
    faults += [f"{fold.path} {why}. Train it to its end first." for fold in chosen if (why := why_unfinished(fold))]
    if faults or not chosen:
        raise UserError(*(faults or [f"--preset {preset}: none of these folders holds a fold of it."]))
    model = model_folder(root, name, preset, resolution)
    own = {fold.name: fold for fold in folds_with_checkpoint(model)}
    new = _new(chosen, own)
    targets = [FoldFolder.of(root, name, preset, fold.name, resolution) for fold in new]
    _refuse_existing(targets)
    together = [*own.values(), *new]
    refuse_strange_checkpoints(together)
    check_together([fold for fold in together if not why_unfinished(fold)])
    _refuse_shared_cases(together)
    _report_nameless(together, report)
    for fold, target in zip(new, targets, strict=True):
        _copy(fold, target, report)
    names = sorted({*own, *(fold.name for fold in new)})
    states = tuple(train_status(root, name, preset, resolution, fold) for fold in names)
    return JoinedFolds(model, tuple(fold.name for fold in new), states)


def _found(sources: Iterable[Path]) -> list[FoldFolder]:
    """The trained folds in some folders. Raises `UserError` with a line for each folder without one."""
    found, faults = list[FoldFolder](), list[str]()
    for source in sources:
        if is_fold(source):
            own = [fold for fold in folds_with_checkpoint(source.parent) if fold.path == source]
        else:
            own = [fold for path in (source, *folders_below(source, 3)) for fold in folds_with_checkpoint(path)]
        if not own:
            faults.append(f"{source} holds no trained fold ({FOLD}0, ...). Give a folder of results.")
        found += own
    if faults:
        raise UserError(*faults)
    return list({fold.path.resolve(): fold for fold in found}.values())


def _name(dataset: str, root: Path, plans: dict[FoldFolder, Plan]) -> str:
    """The name of the data set: that of a folder below the root, else that of the folds."""
    trained = {plan.dataset for plan in plans.values()}
    if dataset in trained:
        return dataset
    return name_of(dataset, root)


def _only_preset(plans: dict[FoldFolder, Plan]) -> Preset:
    presets = sorted({plan.preset for plan in plans.values()})
    if len(presets) > 1:
        raise UserError(f"These folds have the presets {', '.join(presets)}. Choose one with --preset.")
    return presets[0]


def _new(chosen: Sequence[FoldFolder], own: dict[str, FoldFolder]) -> list[FoldFolder]:
    """The folds to copy. Raises `UserError` if two trainings of one fold differ."""
    known, new, faults = dict(own), list[FoldFolder](), list[str]()
    for fold in chosen:
        other = known.setdefault(fold.name, fold)
        if other is fold:
            new.append(fold)
        elif _weights(other) != _weights(fold):
            faults.append(f"{fold.path} and {other.path} are different trainings of one fold. Leave one out.")
    if faults:
        raise UserError(*faults)
    return new


def _refuse_existing(targets: Sequence[FoldFolder]) -> None:
    """Raise `UserError` for each folder that is there. It holds no trained fold, which would not be copied."""
    if there := [target for target in targets if target.path.exists() or target.path.is_symlink()]:
        raise UserError(*(f"{target.path} exists, but holds no trained fold. Move it away." for target in there))


def _weights(fold: FoldFolder) -> str:
    return hash_each([path for which in CHECKPOINTS if (path := fold.checkpoint(which)).is_file()])


def _refuse_shared_cases(folds: Sequence[FoldFolder]) -> None:
    """Raise `UserError` if two folds have a validation case in common: they belong to different divisions."""
    owners: dict[str, FoldFolder] = {}
    for fold in folds:
        if fold.name == ALL or not fold.cases.is_file():
            continue
        for case in FoldCases.read(fold.cases).validation:
            other = owners.setdefault(case, fold)
            if other is not fold:
                raise UserError(
                    f"{fold.path} and {other.path} were both validated on case {case}: the machines had different "
                    "splits.json. Train one of them again with the splits.json of the other machine."
                )


def _report_nameless(folds: Sequence[FoldFolder], report: Report) -> None:
    if nameless := [fold.name for fold in folds if fold.name != ALL and not fold.cases.is_file()]:
        report(f"Fold {listed(nameless)} has no list of its cases, so its validation cases were not compared.")


def _copy(source: FoldFolder, target: FoldFolder, report: Report) -> None:
    """Copy a fold. Its folder is complete or absent."""
    target.path.parent.mkdir(parents=True, exist_ok=True)
    sweep([target.path.parent])
    with alone(target), temporary_folder(target.path) as folder:
        try:
            shutil.copytree(source.path, folder / target.path.name)
        except shutil.Error as error:
            file, _, reason = error.args[0][0]
            raise UserError(
                f"{source.path} cannot be copied: {file}: {reason}. Correct this, and run the same command again."
            ) from None
        (folder / target.path.name).rename(target.path)
    note = "" if is_validated(target) else " Its validation is missing."
    report(f"Copied fold {target.name} from {source.path}.{note}")
