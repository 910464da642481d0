"""The ensemble of a model's trained folds: the folds are chosen, checked against each other, and loaded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from plans.errors import UserError, listed
from plans.layout import ALL, CHECKPOINTS, FOLD, FOLD_NAME, Checkpoint, FoldFolder
from plans.plan import Plan
from textdiffseg.arguments import several
from textdiffseg.files import hash_files
from textdiffseg.folds.agreement import read_together
from textdiffseg.folds.best import why_not_averaged
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.cases import refuse_strange_checkpoints
from textdiffseg.folds.find import folds_with_checkpoint, is_fold, started_folds
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import noted_position
from textdiffseg.folds.postprocessing import Postprocessing, postprocessing_of
from textdiffseg.folds.sampling import Sampling, chosen_sampling, plain_sampling, pool
from textdiffseg.folds.state import is_trained, train_command, why_unfinished
from textdiffseg.folds.weights import load_network
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.text.bank import TextBank


@dataclass(frozen=True)
class Ensemble:
    """The loaded folds of one model, or of several models that are averaged (`folds.best`)."""

    folders: tuple[Path, ...]  # of the models
    folds: tuple[str, ...]  # "0", "1", ... or "all"
    checkpoint: str
    networks: tuple[SegmentationNetwork, ...]
    plan: Plan
    bank: TextBank
    sampling: Sampling
    calibrations: tuple[Calibration, ...]  # one per fold
    hash: str  # of weights, plans and words
    postprocessing: Mapping[str, Postprocessing] = field(default_factory=dict)  # by label name
    notes: tuple[str, ...] = ()  # on folds that are left out, unfinished or not validated
    sampler_iterations: int | None = None  # the fewest of a fold; None: no fold has a sampler with its own training

    @property
    def folder(self) -> Path:
        """The folder of the first model. Its samples are those of the ensemble."""
        return self.folders[0]

    @property
    def samplers(self) -> tuple[SegmentationNetwork, ...]:
        """The networks of the presets that draw samples."""
        return tuple(network for network in self.networks if network.plan.sample_steps is not None)


def names_of_folds(folds: int | str | Iterable[int | str] | None) -> tuple[str, ...] | None:
    """The names of folds that a user gave by number or name; None stays None."""
    return None if folds is None else tuple(map(str, several(folds)))


def chosen_folds(
    folder: Path, names: Sequence[str] | None, checkpoint: str, include_unfinished: bool = False
) -> tuple[FoldFolder, ...]:
    """The named folds, or all finished folds, each with the checkpoint.

    Raises `UserError` if a fold is missing (with a list of those that exist), not finished, or without the checkpoint.
    """
    if is_fold(folder):
        if names:
            raise UserError(f"--folds: {folder} is one fold already. Leave --folds out or give its parent to -m.")
        trained = [FoldFolder(folder)]
    else:
        trained = folds_with_checkpoint(folder)
    known = {fold.name: fold for fold in trained}
    if missing := [name for name in names or () if name not in known]:
        existing = ", ".join(known) or "none"
        raise UserError(
            *(f"--folds {name}: {folder} has no trained fold {name}; it has {existing}." for name in missing)
        )
    chosen = [known[name] for name in sorted(set(names))] if names else trained
    refuse_strange_checkpoints(chosen)
    if not include_unfinished:
        chosen = _finished(chosen, bool(names))
    if absent := [fold for fold in chosen if not fold.checkpoint(checkpoint).is_file()]:
        other = next(which for which in CHECKPOINTS if which != checkpoint)
        advice = f", or run {train_command(absent[0])} to make it from the latest" if checkpoint == "best" else ""
        raise UserError(
            *(
                f"{fold.checkpoint(checkpoint)} does not exist. Use --checkpoint {other}, or leave the fold out "
                f"with --folds{advice}."
                for fold in absent
            )
        )
    return tuple(chosen)


def _finished(folds: Sequence[FoldFolder], named: bool) -> list[FoldFolder]:
    """The finished folds. Raises `UserError` if there is none, or if a `named` fold is not finished."""
    unfinished = _unfinished(folds)
    finished = [fold for fold in folds if fold not in unfinished]
    if unfinished and (named or not finished):
        commands = ", ".join(map(train_command, unfinished))
        none = "" if named else "No fold is finished: "
        raise UserError(
            f"{none}{_in_words(unfinished)}. Train to the end ({commands}), or predict with unfinished folds: "
            "--include-unfinished."
        )
    return finished


def _unfinished(folds: Iterable[FoldFolder]) -> dict[FoldFolder, str]:
    """The folds that are not finished, each with the reason."""
    reasons = {fold: why_unfinished(fold) for fold in folds}
    return {fold: reason for fold, reason in reasons.items() if reason is not None}


def _in_words(unfinished: Mapping[FoldFolder, str]) -> str:
    return "; ".join(f"fold {fold.name} {reason}" for fold, reason in unfinished.items())


def load_ensemble(
    folders: Path | Sequence[Path],
    names: Sequence[str] | None = None,
    checkpoint: Checkpoint = "best",
    device: str = "cpu",
    include_unfinished: bool = False,
) -> Ensemble:
    """The ensemble of the folds of a model, or of several models that are averaged.

    Raises `UserError` if a fold is missing, damaged or does not fit the others.
    """
    folders = (folders,) if isinstance(folders, Path) else tuple(folders)
    if not folders:
        raise UserError("No model was given: give the folder of at least one.")
    folds, notes = list[FoldFolder](), list[str]()
    for folder in folders:
        chosen = chosen_folds(folder, names, checkpoint, include_unfinished)
        folds += chosen
        notes += _left_out(folder, chosen, names)
    ensemble = ensemble_of(folds, checkpoint, device, tuple(notes))
    return ensemble if len(folders) > 1 else replace(ensemble, folders=folders)  # it may be the folder of one fold


def ensemble_of(
    folds: Sequence[FoldFolder],
    checkpoint: Checkpoint = "best",
    device: str = "cpu",
    notes: tuple[str, ...] = (),
) -> Ensemble:
    """The ensemble of chosen folds, of one model or several. Models that draw samples come first.

    Raises `UserError` if folds of a model do not belong together, if models cannot be averaged, or if a fold is given
    twice.
    """
    if len({fold.path.resolve() for fold in folds}) < len(folds):
        raise UserError(f"{folds[0].path.parent}: a fold of it is given twice. Give each model once.")
    by_fold = {fold: plan_of_fold(fold) for fold in folds}
    folds = sorted(folds, key=lambda fold: by_fold[fold].sample_steps is None)
    plans = [by_fold[fold] for fold in folds]
    models = {folder: [fold for fold in folds if _model(fold) == folder] for folder in map(_model, folds)}
    banks = read_together(models.values(), by_fold, checkpoint)
    if differing := why_not_averaged(plans):
        listing = " and ".join(map(str, models))
        raise UserError(f"{listing} cannot be averaged: their plans differ in {differing}. Choose one with -m.")
    chosen = [chosen_sampling(fold, checkpoint) for fold in folds]
    axes = len(plans[0].mirror_axes)
    return Ensemble(
        folders=tuple(models),
        folds=tuple(_name(fold, several=len(models) > 1) for fold in folds),
        checkpoint=checkpoint,
        networks=tuple(load_network(fold, checkpoint, device) for fold in folds),
        plan=plans[0],
        bank=banks[0],
        sampling=pool([choice for choice in chosen if choice] or [plain_sampling(plans[0])], axes),
        calibrations=tuple(read_calibration(fold, checkpoint) for fold in folds),
        postprocessing=postprocessing_of(models.values(), checkpoint),
        hash=hash_files([file for fold in folds for file in _files_of(fold, checkpoint)]),
        notes=(*notes, *_without_choice(folds, chosen, checkpoint, several=len(models) > 1)),
        sampler_iterations=_fewest_of_sampler(folds, checkpoint),
    )


def _fewest_of_sampler(folds: Sequence[FoldFolder], checkpoint: Checkpoint) -> int | None:
    """The fewest iterations of a fold's sampler; None: no fold notes any."""
    positions = [noted_position(fold, checkpoint) for fold in folds]
    return min((one.sampler_iterations for one in positions if one and one.denoiser_epoch is not None), default=None)


def _model(fold: FoldFolder) -> Path:
    return fold.path.parent


def _name(fold: FoldFolder, several: bool) -> str:
    """The name of a fold: `0`, or of one of several models `default/0`."""
    return f"{_model(fold).name}/{fold.name}" if several else fold.name


def _left_out(folder: Path, folds: Sequence[FoldFolder], names: Sequence[str] | None) -> Iterator[str]:
    """Notes on unfinished folds, used or not, and on folds with another name. `names`: those that the user chose."""
    used = _unfinished(folds)
    if used:
        yield f"Note: {_in_words(used)}: the masks are those of an unfinished model."
    if names:
        return
    misnamed = [path for path in folder.glob(f"{FOLD}*") if not FOLD_NAME.fullmatch(path.name)]
    trained = sorted(path.name for path in misnamed if is_trained(FoldFolder(path)))
    if trained:
        yield f"Left out: {listed(trained)}: not the name of a fold. Rename the folder, or move it away."
    others = [] if is_fold(folder) else [*folds_with_checkpoint(folder), *started_folds(folder)]
    unused = _unfinished(fold for fold in others if fold not in folds)
    if unused:
        usable = any(map(is_trained, unused))
        advice = "To use it: --include-unfinished" if usable else f"To train it: {train_command(next(iter(unused)))}"
        yield f"Left out: {_in_words(unused)}. {advice}."


def _without_choice(
    folds: Sequence[FoldFolder], chosen: Sequence[Sampling | None], checkpoint: Checkpoint, several: bool
) -> Iterator[str]:
    """Notes on folds without sampling and calibration from validation, with the reason."""
    lacking = [fold for fold, sampling in zip(folds, chosen, strict=True) if sampling is None]
    if not lacking:
        return
    plain = plain_sampling(plan_of_fold(lacking[0]))
    steps = f"{plain.steps} steps, " if plain.steps else ""
    instead = f"{steps}no mirroring, no calibration" if len(lacking) == len(folds) else "the other folds decide"
    for fold in lacking:
        name = _name(fold, several)
        if fold.sampling.is_file():
            other = Sampling.read(fold.sampling).checkpoint
            which = f"checkpoint_{other}" if other != checkpoint else f"an earlier checkpoint_{other}"
            yield f"Fold {name}: sampling and calibration were fitted to {which} and are not used: {instead}."
        elif fold.name == ALL:
            yield f"Fold {ALL}: all cases were trained on, so the sampling was not chosen: {instead}."
        else:
            yield (
                f"Fold {name}: its validation has not chosen the sampling: {instead}. To validate it: "
                f"{train_command(fold)}."
            )


def _files_of(fold: FoldFolder, checkpoint: str) -> tuple[Path, ...]:
    """The files that a fold's probabilities depend on."""
    return fold.checkpoint(checkpoint), fold.plan, fold.text_bank, fold.text_space
