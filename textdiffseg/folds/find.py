"""The folder of a trained model, and the folds in it."""

from collections.abc import Sequence
from pathlib import Path

from plans.errors import UserError
from plans.layout import FOLD, FoldFolder, fold_folders, low_model, tree
from plans.raw.folders import find_folder
from textdiffseg.folds.best import read_best
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.state import is_trained, why_unfinished


def find_model(root: Path, dataset: str | None = None, folder: Path | None = None, preset: str | None = None) -> Path:
    """The folder of a model, as `find_models` finds it. Raises `UserError` if there is not exactly one."""
    models = find_models(root, dataset, folder, preset)
    if len(models) > 1:
        raise _several(models[0].parent, models)
    return models[0]


def find_models(
    root: Path, dataset: str | None = None, folder: Path | None = None, preset: str | None = None
) -> tuple[Path, ...]:
    """The folder of a model: in `folder` if it is given, else the only trained model of `dataset` or below `root`.

    If there are several models of one data set, `preset` selects one, else `tds_find_best` has chosen one or more.
    Raises `UserError` with a list if several models are left that nobody chose.
    """
    if folder is not None:
        where = folder
        if not where.is_dir():
            raise UserError(f"-m: {where} is not a folder. Give the folder of a trained model (it holds fold_0, ...).")
    else:
        where = find_folder(dataset, root, "results") if dataset else tree(root, "results")
    models = _models(where)
    if not models:
        unfinished = "".join(f" {fold.path} {why_unfinished(fold)}." for fold in started_folds(where))
        raise UserError(
            f"No trained model in {where}: expected folders fold_0, ... below.{unfinished} Run tds_train first, "
            "or give the model's folder with -m, or another --root."
        )
    if preset is not None:
        presets = {path: _preset_of(path) for path in models}
        models = [path for path in models if presets[path] == preset]
        if not models:
            trained = ", ".join(dict.fromkeys(presets.values()))
            raise UserError(f"--preset {preset}: {where} has no trained model of it. Trained there: {trained}.")
    if preset is None and where not in models and len(models) > 1 and (best := _chosen(where, models)):
        return best
    if len(models) > 1:
        companions = {low_model(path) for path in models}  # they serve the models beside them
        models = [path for path in models if path not in companions]
    if len(models) > 1:
        raise _several(where, models)
    return tuple(models)


def _chosen(where: Path, models: Sequence[Path]) -> tuple[Path, ...]:
    """The models that `tds_find_best` has chosen: among those in `where`, or among those of the only data set there."""
    parents = {path.parent for path in models}
    return read_best(where) or (read_best(parents.pop()) if len(parents) == 1 else ())


def _several(where: Path, models: Sequence[Path]) -> UserError:
    choices = (f"    -m {path}" for path in models)
    return UserError(f"There are {len(models)} trained models in {where}. Choose one:", *choices)


def _preset_of(model: Path) -> str:
    """The preset of a trained model, by the plan of its first fold."""
    folds = [FoldFolder(model)] if is_fold(model) else folds_with_checkpoint(model)
    return plan_of_fold(folds[0]).preset


def _models(where: Path) -> list[Path]:
    """The folders with a trained fold: `where` itself, or those one or two levels below it."""
    if folds_with_checkpoint(where):
        return [where]
    if is_fold(where) and is_trained(FoldFolder(where)):
        return [where]
    return sorted(path for path in folders_below(where, 2) if folds_with_checkpoint(path))


def folders_below(where: Path, levels: int) -> list[Path]:
    """The folders up to so many levels below a folder. Hidden ones may be the leftovers of a killed process."""
    if levels == 0 or not where.is_dir():
        return []
    direct = [path for path in sorted(where.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [*direct, *(path for folder in direct for path in folders_below(folder, levels - 1))]


def started_folds(where: Path) -> list[FoldFolder]:
    """The folds at or below a folder that have a plan, but no checkpoint yet."""
    folds = [FoldFolder(path) for path in (where, *folders_below(where, 3)) if is_fold(path)]
    return [fold for fold in folds if fold.plan.is_file() and not is_trained(fold)]


def is_fold(folder: Path) -> bool:
    return folder.name.startswith(FOLD)


def folds_with_checkpoint(folder: Path) -> list[FoldFolder]:
    """The folds in a folder that have a checkpoint, finished or not."""
    return [fold for fold in fold_folders(folder) if is_trained(fold)]
