"""The trained folds of a model: which there are, whether they belong together, and what they were told to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.folders import find_folder
from plans.layout import CHECKPOINTS, FOLD, FoldFolder, tree
from plans.plan import Plan
from textdiffseg.files import hash_files
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.sampling import Sampling, pool, read_sampling
from textdiffseg.folds.weights import load_network
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.text.bank import TextBank


@dataclass(frozen=True)
class Ensemble:
    """The folds of one model, loaded."""

    folder: Path
    folds: tuple[str, ...]  # "0", "1", ... or "all"
    checkpoint: str
    networks: tuple[SegmentationNetwork, ...]
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
        where = find_folder(dataset, root, "results") if dataset else tree(root, "results")
    found = _models(where)
    if not found:
        raise UserError(
            f"No trained model in {where}: expected folders fold_0, ... below. Run tds_train first, "
            "or give the model's folder with -m, or another --root."
        )
    if len(found) > 1:
        choices = (f"    -m {path}" for path in found)
        raise UserError(f"There are {len(found)} trained models in {where}. Choose one:", *choices)
    return found[0]


def _models(where: Path) -> list[Path]:
    """Folders with a trained fold: `where` itself, or those one or two levels below it."""
    if _all_folds(where):
        return [where]
    if _is_fold(where) and _is_trained(FoldFolder(where)):
        return [where]
    levels = (path for pattern in ("*", "*/*") for path in sorted(where.glob(pattern)) if path.is_dir())
    return sorted(path for path in levels if _all_folds(path))


def _is_fold(folder: Path) -> bool:
    return folder.name.startswith(FOLD)


def _is_trained(fold: FoldFolder) -> bool:
    return any(fold.checkpoint(which).is_file() for which in CHECKPOINTS)


def _all_folds(folder: Path) -> list[FoldFolder]:
    folds = [FoldFolder(path) for path in sorted(folder.glob(f"{FOLD}*")) if path.is_dir()]
    return [fold for fold in folds if _is_trained(fold)]


def trained_folds(folder: Path, names: Sequence[str] | None, checkpoint: str) -> tuple[FoldFolder, ...]:
    """The folds asked for, or all that are trained; `UserError` lists what exists."""
    if _is_fold(folder):
        if names:
            raise UserError(f"--folds: {folder} is one fold already. Leave --folds out or give its parent to -m.")
        trained = [FoldFolder(folder)]
    else:
        trained = _all_folds(folder)
    known = {fold.name: fold for fold in trained}
    if missing := [name for name in names or () if name not in known]:
        there = ", ".join(known) or "none"
        raise UserError(*(f"--folds {name}: {folder} has no trained fold {name}; it has {there}." for name in missing))
    chosen = [known[name] for name in sorted(set(names))] if names else trained
    if absent := [fold for fold in chosen if not fold.checkpoint(checkpoint).is_file()]:
        other = next(which for which in CHECKPOINTS if which != checkpoint)
        raise UserError(
            *(
                f"{fold.checkpoint(checkpoint)} does not exist. Use --checkpoint {other}, leave the fold out "
                "with --folds, or train it further."
                for fold in absent
            )
        )
    return tuple(chosen)


def load_ensemble(
    folder: Path, names: Sequence[str] | None = None, checkpoint: str = "best", device: str = "cpu"
) -> Ensemble:
    """Load the folds of a model; `UserError` where one is missing, damaged, or of another plan."""
    folds = trained_folds(folder, names, checkpoint)
    plans = [Plan.read(fold.plan) for fold in folds]
    _check_agreement(folds, plans)
    banks = [TextBank.load(fold.words) for fold in folds]
    check_words([fold.text_bank for fold in folds], plans, banks)
    return Ensemble(
        folder=folder,
        folds=tuple(fold.name for fold in folds),
        checkpoint=checkpoint,
        networks=tuple(load_network(fold, checkpoint, device) for fold in folds),
        plan=plans[0],
        bank=banks[0],
        sampling=pool([read_sampling(fold) for fold in folds], len(plans[0].mirror_axes)),
        calibrations=tuple(read_calibration(fold) for fold in folds),
        hash=hash_files([file for fold in folds for file in _files_of(fold, checkpoint)]),
    )


def _files_of(fold: FoldFolder, checkpoint: str) -> tuple[Path, ...]:
    """The files that a fold's probabilities depend on."""
    return fold.checkpoint(checkpoint), fold.plan, fold.text_bank, fold.text_space


def _check_agreement(folds: Sequence[FoldFolder], plans: Sequence[Plan]) -> None:
    """Folds may differ in how they were trained, not in what they read and give."""
    trained_only = {"batch", "device", "training", "memory", "low_resolution", "reasons", "median_shape"}
    first = plans[0].model_dump(exclude=trained_only)
    for fold, plan in zip(folds[1:], plans[1:], strict=True):
        other = plan.model_dump(exclude=trained_only)
        fields = ", ".join(name for name in first if first[name] != other[name])
        if fields:
            raise UserError(
                f"{fold.plan} differs from {folds[0].plan} in {fields}: these folds are no "
                "ensemble. Choose among them with --folds."
            )


def check_words(files: Sequence[Path], plans: Sequence[Plan], banks: Sequence[TextBank]) -> None:
    """Raise `UserError` where the words of a file are not those of its plan, or differ from the first file's."""
    for file, plan, bank in zip(files, plans, banks, strict=True):
        if bank.labels != tuple(label.name for label in plan.labels) or bank.width != plan.text.width:
            raise UserError(
                f"{file} does not belong to the plan beside it (other labels or another "
                "width). Put the plan back, or run tds_plan_and_preprocess again."
            )
        if not bank.space.is_of(plan.text.encoder, None):
            raise UserError(
                f"{file} holds vectors of the text encoder {bank.space.encoder!r}, and the plan beside it was made for "
                f"{plan.text.encoder!r}. Run tds_plan_and_preprocess again; in a trained fold, copy the fold again."
            )
        if bank.words != banks[0].words:
            raise UserError(
                f"{file} holds other words than {files[0].parent.name}'s: these folds are no "
                "ensemble. Choose among them with --folds."
            )
        if not bank.space.agrees(banks[0].space):
            raise UserError(
                f"{file} belongs to another text space than {files[0].parent.name}'s: these folds are not an "
                "ensemble. Choose among them with --folds."
            )
