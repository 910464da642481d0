"""The trained folds of a model: which there are, whether they belong together, and what they were told to do."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.folders import find_folder
from plans.plan import FOLD_BANK, FOLD_PLAN, Plan
from textdiffseg.inference.calibration import Calibration, read_calibration
from textdiffseg.inference.settings import SAMPLING, Sampling, pool
from textdiffseg.networks.model import Model
from textdiffseg.networks.weights import checkpoint_path, load_model
from textdiffseg.text.bank import TextBank

CHECKPOINTS = ("best", "latest")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Ensemble:
    """The folds of one model, loaded."""

    folder: Path
    folds: tuple[str, ...]  # "0", "1", ... or "all"
    checkpoint: str
    models: tuple[Model, ...]
    plan: Plan
    bank: TextBank
    sampling: Sampling
    calibrations: tuple[Calibration, ...]  # one a fold
    hash: str  # of weights, plans and words


def find_model(root: Path, dataset: str | None = None, folder: Path | None = None) -> Path:
    """The folder that holds fold_*: `folder` itself or the one below it, else the one trained model there is.

    Raises `UserError`, with the list, where there is none or more than one.
    """
    if folder is not None:
        where = folder
        if not where.is_dir():
            raise UserError(f"-m: {where} is no folder. Give the folder of a trained model (it holds fold_0, ...).")
    else:
        where = find_folder(dataset, root, "results") if dataset else root / "results"
    found = _models(where)
    if not found:
        raise UserError(
            f"No trained model in {where}: expected folders fold_0, ... below. Run tds_train first, "
            "or give the model's folder with -m, or another --root."
        )
    if len(found) > 1:
        listed = "".join(f"\n    -m {path}" for path in found)
        raise UserError(f"There are {len(found)} trained models in {where}. Choose one:{listed}")
    return found[0]


def _models(where: Path) -> list[Path]:
    """Folders with a trained fold: `where` itself, or those one or two levels below it."""
    if _all_folds(where):
        return [where]
    if where.name.startswith("fold_") and _is_trained(where):
        return [where]
    levels = (path for pattern in ("*", "*/*") for path in sorted(where.glob(pattern)) if path.is_dir())
    return sorted(path for path in levels if _all_folds(path))


def _is_trained(fold: Path) -> bool:
    return any(checkpoint_path(fold, which).is_file() for which in CHECKPOINTS)


def _all_folds(folder: Path) -> list[Path]:
    return sorted(fold for fold in folder.glob("fold_*") if fold.is_dir() and _is_trained(fold))


def fold_folders(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> tuple[Path, ...]:
    """The folders of the folds asked for, or of all that are trained; `UserError` lists what exists."""
    if folder.name.startswith("fold_"):
        if folds:
            raise UserError(f"--folds: {folder} is one fold already. Leave --folds out or give its parent to -m.")
        trained = [folder]
    else:
        trained = _all_folds(folder)
    names = {fold.name.removeprefix("fold_"): fold for fold in trained}
    missing = [fold for fold in folds or () if fold not in names]
    if missing:
        raise UserError(
            *(
                f"--folds {fold}: {folder} has no trained fold {fold}; it has {', '.join(names) or 'none'}."
                for fold in missing
            )
        )
    chosen = [names[fold] for fold in sorted(set(folds))] if folds else trained
    absent = [fold for fold in chosen if not checkpoint_path(fold, checkpoint).is_file()]
    if absent:
        other = next(which for which in CHECKPOINTS if which != checkpoint)
        raise UserError(
            *(
                f"{checkpoint_path(fold, checkpoint)} does not exist. Use --checkpoint {other}, leave the fold out "
                "with --folds, or train it further."
                for fold in absent
            )
        )
    return tuple(chosen)


def load_ensemble(
    folder: Path, folds: Sequence[str] | None = None, checkpoint: str = "best", device: str = "cpu"
) -> Ensemble:
    """Load the folds of a model; `UserError` where one is missing, damaged, or of another plan."""
    paths = fold_folders(folder, folds, checkpoint)
    plans = [Plan.read(path / FOLD_PLAN) for path in paths]
    _check_agreement(paths, plans)
    files = [path / FOLD_BANK for path in paths]
    banks = [TextBank.load(file) for file in files]
    check_words(files, plans, banks)
    return Ensemble(
        folder=folder,
        folds=tuple(path.name.removeprefix("fold_") for path in paths),
        checkpoint=checkpoint,
        models=tuple(load_model(path, checkpoint, device) for path in paths),
        plan=plans[0],
        bank=banks[0],
        sampling=pool([read_sampling(path) for path in paths], len(plans[0].mirror_axes)),
        calibrations=tuple(read_calibration(path) for path in paths),
        hash=hash_files(
            [file for path in paths for file in (checkpoint_path(path, checkpoint), path / FOLD_PLAN, path / FOLD_BANK)]
        ),
    )


def read_sampling(fold: Path) -> Sampling:
    """What validation chose for a fold; where it has not, the steps that the plan fixes, or one and mirroring."""
    path = fold / SAMPLING
    if path.is_file():
        return Sampling.read(path)
    diffusion = Plan.read(fold / FOLD_PLAN).diffusion
    return Sampling(steps=diffusion.steps, mirroring=False) if diffusion and diffusion.steps else Sampling()


def _check_agreement(paths: Sequence[Path], plans: Sequence[Plan]) -> None:
    """Folds may differ in how they were trained, not in what they read and give."""
    trained_only = {"batch", "device", "training", "memory", "low_resolution", "reasons", "median_shape"}
    first = plans[0].model_dump(exclude=trained_only)
    for path, plan in zip(paths[1:], plans[1:], strict=True):
        other = plan.model_dump(exclude=trained_only)
        fields = ", ".join(name for name in first if first[name] != other[name])
        if fields:
            raise UserError(
                f"{path / FOLD_PLAN} differs from {paths[0] / FOLD_PLAN} in {fields}: these folds are no "
                "ensemble. Choose among them with --folds."
            )


def check_words(files: Sequence[Path], plans: Sequence[Plan], banks: Sequence[TextBank]) -> None:
    """Raise `UserError` where the words of a file are not those of its plan, or of the first file."""
    for file, plan, bank in zip(files, plans, banks, strict=True):
        if bank.labels != tuple(label.name for label in plan.labels) or bank.width != plan.text.width:
            raise UserError(
                f"{file} does not belong to the plan beside it (other labels or another "
                "width). Put the plan back, or run tds_plan_and_preprocess again."
            )
        if bank.words != banks[0].words:
            raise UserError(
                f"{file} holds other words than {files[0].parent.name}'s: these folds are no "
                "ensemble. Choose among them with --folds."
            )


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
