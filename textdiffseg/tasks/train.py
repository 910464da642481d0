"""Train one fold, then validate it. A second call resumes an interrupted run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plans.choices import PRESETS, RESOLUTIONS, Preset, Resolution
from plans.errors import UserError, listed
from plans.layout import ALL, FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.planning.budget import refuse_beyond_budget
from plans.raw.folders import find_folder
from textdiffseg.arguments import check_choice, path_of
from textdiffseg.data.checks import check_cases
from textdiffseg.data.splits import Split, Splits, read_splits, read_stored_splits
from textdiffseg.data.store import list_cases
from textdiffseg.extras import require
from textdiffseg.folds.agreement import check_words
from textdiffseg.folds.cases import FoldCases, refuse_other_cases
from textdiffseg.folds.changed import changed_validation, changes, current_scores, has_other_split
from textdiffseg.folds.find import folds_with_checkpoint
from textdiffseg.folds.last_error import noting_error
from textdiffseg.folds.lock import alone, refuse_while_planned
from textdiffseg.folds.position import read_position
from textdiffseg.folds.replacing import put_back
from textdiffseg.leftovers import sweep
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.tasks.plan import PlannedDataset
from textdiffseg.tasks.started import is_started, low_resolution_folder, read_plan, refuse_changed_plan
from textdiffseg.tasks.validate import TrainedFold, trained_fold, validate
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.stored import stored_case_texts, stored_words
from textdiffseg.training.checkpoint import complete_best
from textdiffseg.training.loop import train_fold
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TooShort
from textdiffseg.training.tracking import require_tracker

LONG_CHECK_SECONDS = 5.0  # progress is reported if reading the stored cases takes longer


def train(
    dataset: PlannedDataset | str | Path,
    fold: int | str = 0,
    *,
    root: str | Path = ".",
    options: TrainingOptions | None = None,
    preset: Preset | None = None,
    resolution: Resolution = "full",
    must_exist: bool = False,
    only_validate: bool = False,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> TrainedFold:
    """The trained and validated fold. An interrupted run is resumed.

    Args:
        dataset: the result of `plan`, or the id, name or folder of a planned data set below `root`.
        fold: 0 to 4, or "all" to train on every case.
        options: length, device, seed, ...; None: those of the plan.
        preset, resolution: of the plan; None: the preset of `dataset`, else the first planned one.
        must_exist: only resume a run, do not start one.
        only_validate: do not train; validate the fold again.

    A CPU with AMX trains in float32, unless ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 is set before torch is imported. The
    commands set it. With AMX, oneDNN computes wrong bfloat16 gradients on thin grids, or crashes.

    Raises `UserError` if preset or resolution is not one of the choices, if plan, phrasings and cases do not fit each
    other or the run, or if an extra is not installed.
    Raises `Cancelled` after saving. An error in `report`, `progress` or `cancel` also leaves after saving.
    """
    options = _checked(options or TrainingOptions(), resumes=must_exist or only_validate)
    source, root, preset = _planned(dataset, path_of(root), preset, resolution)
    _refuse_unknown_fold(source, fold)
    target = FoldFolder.of(root, source.dataset, preset, fold, resolution)
    with _alone(source, target), _started(target, options, must_exist, only_validate, report) as started:
        split = _read_splits(source).split(fold)
        plan = _check(source, target if started else None, preset, split, progress)
        if not started and not options.restart:
            _refuse_other_splits(source, target)
        for note in changes(target) if started else _notes_on_device(plan, options.chosen_device):
            report(f"Note: {note}")
        sweep([target.path, target.validation])
        if only_validate:
            complete_best(target, report)
        elif not _train(source, split, target, options, preset, report, progress, cancel):
            return trained_fold(target, str(fold) != ALL)
        return validate(source.path, split, target, options.chosen_device, str(fold) != ALL, report, progress, cancel)


def _refuse_unknown_fold(source: PreprocessedFolder, fold: int | str) -> None:
    """Raise `UserError` if the data set is not planned, or has no such fold."""
    splits = read_stored_splits(source.splits) if source.splits.is_file() else _read_splits(source)
    splits.split(fold)


@contextmanager
def _alone(source: PreprocessedFolder, fold: FoldFolder) -> Iterator[None]:
    """Hold a fold. Raises `Busy` if another process holds it, or plans its data set."""
    with alone(fold):
        refuse_while_planned(source)
        yield


@contextmanager
def _started(
    fold: FoldFolder, options: TrainingOptions, must_exist: bool, only_validate: bool, report: Report
) -> Iterator[bool]:
    """Whether the fold holds a run, with the process set for its training. An error in the context is noted.

    Options that do not fit the fold are refused before: a mistyped one says nothing about the fold.
    """
    put_back(fold, report)  # a restart may have been killed before its first checkpoint
    started = is_started(fold, options, must_exist, only_validate)
    with noting_error(fold, Cancelled, TooShort), cuda_kernels():
        yield started


def _refuse_other_splits(source: PreprocessedFolder, new: FoldFolder) -> None:
    """Raise `UserError` if a fold is to be started beside folds of other splits. They would not be one division."""
    trained = folds_with_checkpoint(new.path.parent)
    if others := [fold for fold in trained if fold.path != new.path and has_other_split(fold, source)]:
        raise UserError(
            f"{others[0].path} was trained on other cases than {source.splits} lists now, so a new fold would not fit "
            "it. Move such folds away or train them again with --restart, or put the old cases and splits back."
        )


def _checked(options: TrainingOptions, resumes: bool) -> TrainingOptions:
    """The options. Raises `UserError` if they need an extra that is not installed, or contradict each other."""
    require("train", "tds_train")
    require_tracker(options.track)
    if options.restart and resumes:
        raise UserError("--restart deletes the run that --continue and --val need. Give one of them.")
    return options


def _train(
    source: PreprocessedFolder,
    split: Split,
    fold: FoldFolder,
    options: TrainingOptions,
    preset: Preset,
    report: Report,
    progress: OnProgress,
    cancel: Cancel,
) -> bool:
    """Train to the end. False if nothing is left to do: the fold was trained and validated before."""
    before = None if options.restart else read_position(fold)
    train_fold(source.path, split, fold, options, preset, report, progress, cancel)
    if before is None or read_position(fold) != before:
        return True
    if current_scores(fold) is not None:
        report(_finished(fold))
        return False
    why = "validation cases were changed" if changed_validation(fold) else "validation was interrupted"
    report(f"{fold.path} is trained, but its {why}. The validation starts again.")
    return True


def _finished(fold: FoldFolder) -> str:
    """The report on a finished fold: its training, and how to train it longer."""
    position = read_position(fold)
    done = None if position is None else f"{position.epochs} epochs, {position.seconds / 60:.3g} minutes"
    return (
        f"{fold.path} is trained ({done}) and validated. Nothing is left to do. To train it longer, give "
        "more --epochs or --max-minutes; to validate it again, --val."
    )


def _planned(
    dataset: PlannedDataset | str | Path, root: Path, preset: Preset | None, resolution: Resolution
) -> tuple[PreprocessedFolder, Path, Preset]:
    """The preprocessed folder of the resolution to train, its root, and the preset to train."""
    check_choice("resolution", resolution, RESOLUTIONS)
    if preset is not None:
        check_choice("preset", preset, PRESETS)
    source, root, preset = _planned_at_full(dataset, root, preset)
    return low_resolution_folder(source, preset) if resolution == "low" else source, root, preset


def _planned_at_full(
    dataset: PlannedDataset | str | Path, root: Path, preset: Preset | None
) -> tuple[PreprocessedFolder, Path, Preset]:
    """The preprocessed folder of the data set, its root, and the preset to train."""
    if isinstance(dataset, PlannedDataset):
        return dataset.folder, dataset.root, preset or dataset.plan.preset
    source = PreprocessedFolder(find_folder(str(dataset), root, "preprocessed"))
    existing = [planned for planned in PRESETS if source.plan(planned).is_file()]
    if preset is None and existing:
        return source, root, existing[0]
    if preset is None or preset not in existing:
        option, missing = f" --preset {preset}" if preset else "", source.plan(preset or "default").name
        raise UserError(
            f"{source.path} has no plan {missing} (it has {', '.join(existing) or 'none'}). Run "
            f"tds_plan_and_preprocess{option} first."
        )
    return source, root, preset


def _notes_on_device(plan: Plan, device: str) -> Iterator[str]:
    """A note on a plan that was made for another device: its network is too small, or its training takes long."""
    command = f"tds_plan_and_preprocess --preset {plan.preset}"
    if plan.device == "cpu" and device == "cuda":
        yield (
            "this plan was made for a CPU, so its network is small and its training short. For one that uses "
            f"this GPU, run {command} here, or on another machine with --memory-gb 8."
        )
    if plan.device == "gpu" and device == "cpu":
        yield (
            "this plan was made for a GPU; on a CPU its training takes very long. For a smaller network, run "
            f"{command} without --memory-gb on a machine without a GPU."
        )


def _read_splits(source: PreprocessedFolder) -> Splits:
    """The folds. Raises `UserError` if one of their cases is not stored."""
    stored = list_cases(source.path)
    if source.splits.is_file() and (missing := {*read_stored_splits(source.splits).cases} - {*stored}):
        raise UserError(f"{source.cases}: not stored: {listed(sorted(missing))}. Run tds_plan_and_preprocess again.")
    return read_splits(source.splits, stored)


def _check(
    source: PreprocessedFolder, started: FoldFolder | None, preset: Preset, split: Split, progress: OnProgress
) -> Plan:
    """The plan to train with: that of a started run, else that of the data set.

    Nothing is written. Raises `UserError` if plan, phrasings and stored cases do not belong together.
    """
    plan = read_plan(source, started, preset)
    if started and source.plan(preset).is_file():
        refuse_changed_plan(started, plan, source, preset)
    words = started.words if started else stored_words(source, plan)
    bank = TextBank.load(words)
    check_words([words.bank], [plan], [bank])
    if plan.reads_texts:
        read_case_texts(stored_case_texts(source, plan), bank, ())
    start = time.perf_counter()

    def checked(done: float, total: float) -> None:
        if time.perf_counter() - start > LONG_CHECK_SECONDS:
            progress(ProgressEvent("Check the stored cases", done, total, "case"))

    check_cases(source.path, sorted({*split.train, *split.validation}), plan, checked)
    refuse_beyond_budget(plan, str(started.plan if started else source.plan(preset)))
    if started:
        refuse_other_cases(started, FoldCases.of(plan.dataset, split.train, split.validation))
    return plan
