"""The trained folds of a model: which there are, whether they belong together, and how they predict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.folders import find_folder
from plans.layout import CHECKPOINTS, FOLD, Checkpoint, FoldFolder, tree
from plans.plan import Plan
from textdiffseg.files import hash_files
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.cases import refuse_copies, refuse_strange_checkpoints
from textdiffseg.folds.sampling import Sampling, chosen_sampling, plain_sampling, pool
from textdiffseg.folds.state import is_trained, train_command, why_unfinished
from textdiffseg.folds.weights import load_network
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.text.bank import TextBank

ALL = "all"


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
    notes: tuple[str, ...] = ()  # sentences on folds that are left out, unfinished or not validated


def find_model(root: Path, dataset: str | None = None, folder: Path | None = None, preset: str | None = None) -> Path:
    """The folder that holds fold_*: `folder` itself or the one below it, else the one trained model there is.

    `preset`: of several models, that of this preset. Raises `UserError`, with the list, where there is none or more
    than one.
    """
    if folder is not None:
        where = folder
        if not where.is_dir():
            raise UserError(f"-m: {where} is no folder. Give the folder of a trained model (it holds fold_0, ...).")
    else:
        where = find_folder(dataset, root, "results") if dataset else tree(root, "results")
    found = _models(where)
    if not found:
        begun = "".join(f" {fold.path} {why_unfinished(fold)}." for fold in _begun(where))
        raise UserError(
            f"No trained model in {where}: expected folders fold_0, ... below.{begun} Run tds_train first, "
            "or give the model's folder with -m, or another --root."
        )
    if preset is not None:
        presets = {path: _preset_of(path) for path in found}
        found = [path for path in found if presets[path] == preset]
        if not found:
            there = ", ".join(dict.fromkeys(presets.values()))
            raise UserError(f"--preset {preset}: {where} has no trained model of it. Trained there: {there}.")
    if len(found) > 1:
        choices = (f"    -m {path}" for path in found)
        raise UserError(f"There are {len(found)} trained models in {where}. Choose one:", *choices)
    return found[0]


def _preset_of(model: Path) -> str:
    """The preset of a trained model, by the plan of its first fold."""
    folds = [FoldFolder(model)] if _is_fold(model) else _all_folds(model)
    return Plan.read(folds[0].plan).preset


def _models(where: Path) -> list[Path]:
    """Folders with a trained fold: `where` itself, or those one or two levels below it."""
    if _all_folds(where):
        return [where]
    if _is_fold(where) and is_trained(FoldFolder(where)):
        return [where]
    levels = (path for pattern in ("*", "*/*") for path in sorted(where.glob(pattern)) if path.is_dir())
    return sorted(path for path in levels if _all_folds(path))


def _begun(where: Path) -> list[FoldFolder]:
    """Folds at or below a folder that have a plan, but no checkpoint yet."""
    patterns = (f"{FOLD}*", f"*/{FOLD}*", f"*/*/{FOLD}*")
    folders = [where, *(path for pattern in patterns for path in sorted(where.glob(pattern)))]
    folds = [FoldFolder(path) for path in folders if _is_fold(path)]
    return [fold for fold in folds if fold.plan.is_file() and not is_trained(fold)]


def _is_fold(folder: Path) -> bool:
    return folder.name.startswith(FOLD)


def _all_folds(folder: Path) -> list[FoldFolder]:
    folds = [FoldFolder(path) for path in sorted(folder.glob(f"{FOLD}*")) if path.is_dir()]
    return [fold for fold in folds if is_trained(fold)]


def trained_folds(
    folder: Path, names: Sequence[str] | None, checkpoint: str, include_unfinished: bool = False
) -> tuple[FoldFolder, ...]:
    """The folds asked for, or all that are finished; `UserError` lists what exists."""
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
    refuse_strange_checkpoints(chosen)
    if not include_unfinished:
        chosen = _finished(chosen, bool(names))
    if absent := [fold for fold in chosen if not fold.checkpoint(checkpoint).is_file()]:
        other = next(which for which in CHECKPOINTS if which != checkpoint)
        again = f", or run {train_command(absent[0])}, which makes it of the latest" if checkpoint == "best" else ""
        raise UserError(
            *(
                f"{fold.checkpoint(checkpoint)} does not exist. Use --checkpoint {other}, leave the fold out "
                f"with --folds{again}."
                for fold in absent
            )
        )
    return tuple(chosen)


def _finished(folds: Sequence[FoldFolder], named: bool) -> list[FoldFolder]:
    """The finished folds; `UserError` where there is none, or where one that is `named` is not finished."""
    reasons = {fold.name: why for fold in folds if (why := why_unfinished(fold))}
    finished = [fold for fold in folds if fold.name not in reasons]
    if reasons and (named or not finished):
        commands = ", ".join(train_command(fold) for fold in folds if fold.name in reasons)
        there = "" if named else "No fold is finished: "
        raise UserError(
            f"{there}{_in_words(reasons)}. Train to the end ({commands}), or give --include-unfinished to predict with "
            "what there is."
        )
    return finished


def _in_words(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"fold {name} {why}" for name, why in reasons.items())


def load_ensemble(
    folder: Path,
    names: Sequence[str] | None = None,
    checkpoint: Checkpoint = "best",
    device: str = "cpu",
    include_unfinished: bool = False,
) -> Ensemble:
    """Load the folds of a model; `UserError` where one is missing, damaged, or does not belong to the others."""
    folds = trained_folds(folder, names, checkpoint, include_unfinished)
    plans = [Plan.read(fold.plan) for fold in folds]
    _check_agreement(folds, plans)
    banks = [TextBank.load(fold.words) for fold in folds]
    check_words([fold.text_bank for fold in folds], plans, banks)
    refuse_copies(folds, checkpoint)
    chosen = [chosen_sampling(fold, checkpoint) for fold in folds]
    axes = len(plans[0].mirror_axes)
    return Ensemble(
        folder=folder,
        folds=tuple(fold.name for fold in folds),
        checkpoint=checkpoint,
        networks=tuple(load_network(fold, checkpoint, device) for fold in folds),
        plan=plans[0],
        bank=banks[0],
        sampling=pool([one for one in chosen if one] or [plain_sampling(plans[0])], axes),
        calibrations=tuple(read_calibration(fold, checkpoint) for fold in folds),
        hash=hash_files([file for fold in folds for file in _files_of(fold, checkpoint)]),
        notes=(*_left_out(folder, folds, names), *_without_choice(folds, chosen, checkpoint)),
    )


def _left_out(folder: Path, folds: Sequence[FoldFolder], names: Sequence[str] | None) -> Iterator[str]:
    """What to know of folds that are not finished, used or not."""
    used = {fold.name: why for fold in folds if (why := why_unfinished(fold))}
    others = [] if names or _is_fold(folder) else [*_all_folds(folder), *_begun(folder)]
    if used:
        yield f"Note: {_in_words(used)}: its masks are those of a model that is not trained to the end."
    if unused := {fold.name: why for fold in others if fold not in folds and (why := why_unfinished(fold))}:
        yield f"Left out: {_in_words(unused)}. To use it all the same: --include-unfinished."


def _without_choice(
    folds: Sequence[FoldFolder], chosen: Sequence[Sampling | None], checkpoint: Checkpoint
) -> Iterator[str]:
    """Why nothing that validation fitted is used with some folds."""
    lacking = [fold for fold, sampling in zip(folds, chosen, strict=True) if sampling is None]
    if not lacking:
        return
    plain = plain_sampling(Plan.read(lacking[0].plan))
    steps = f"{plain.steps} step{'s' * (plain.steps > 1)}"
    instead = f"{steps}, no mirroring, no calibration" if len(lacking) == len(folds) else "the other folds decide"
    for fold in lacking:
        if fold.sampling.is_file():
            other = Sampling.read(fold.sampling).checkpoint
            which = f"checkpoint_{other}" if other != checkpoint else f"an earlier checkpoint_{other}"
            yield f"Fold {fold.name}: sampling and calibration were fitted to {which} and are not used: {instead}."
        elif fold.name == ALL:
            yield f"Fold {ALL}: no case was kept from training to choose the sampling: {instead}."
        else:
            yield (
                f"Fold {fold.name}: its validation did not come to choose the sampling: {instead}. To validate it: "
                f"{train_command(fold)}."
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
