"""Train one fold, then predict and score its validation cases on their original grids. Run again, it goes on."""

import math
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.folders import find_folder
from plans.layout import FoldFolder, PreprocessedFolder
from plans.memory import refuse_beyond_budget
from plans.plan import Plan
from plans.presets import PRESETS, Preset
from textdiffseg.data.splits import Fold, read_splits, refuse_other_cases
from textdiffseg.data.store import check_cases, list_cases
from textdiffseg.evaluation.report import Summary
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.ensemble import check_words
from textdiffseg.folds.lock import alone
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.tasks.plan import PlannedDataset
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.training.checkpoint import read_progress
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import fit
from textdiffseg.training.run import TrainingOptions
from textdiffseg.validation.calibrate import MAX_SAMPLED_SECONDS, calibrate_uncertainty
from textdiffseg.validation.cases import WindowProgress
from textdiffseg.validation.choose import MAX_SECONDS, choose_sampling
from textdiffseg.validation.score import validate_fold

ALL = "all"
LONG_MINUTES = 10.0  # of validation, reported beforehand
# Shares of the training's time that may go into choosing steps and mirroring, at least so many seconds, and into
# calibrating the uncertainty, so that short runs stay short.
CHOICE_SHARE, MIN_CHOICE_SECONDS, CALIBRATION_SHARE = 0.2, 30.0, 0.1


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold, and how good it is on the cases kept from it."""

    fold: FoldFolder
    plan: Plan
    summary: Summary  # scores on the original grids
    held_out: bool  # False: fold all, scored on cases that it was trained on
    sampling: Sampling
    calibration: Calibration
    latent_dice: dict[str, float]  # of each label's true mask through the latent and back, without the image


def train(
    dataset: PlannedDataset | str | Path,
    fold: int | str = 0,
    *,
    root: str | Path = ".",
    options: TrainingOptions | None = None,
    preset: Preset | None = None,
    must_exist: bool = False,
    only_validate: bool = False,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> TrainedFold:
    """Train a fold, going on where an earlier call stopped, and validate it.

    Args:
        dataset: what `plan` returned, or the id, name or folder of a planned data set below `root`.
        fold: 0 to 4, or "all" to train on every case.
        options: length, device, seed, ...; None: the plan's own.
        preset: whose plan; None: that of `dataset`, else the first that is planned.
        must_exist: refuse to start a run; go on with one.
        only_validate: predict and score the validation cases of a run again.

    Raises `UserError` where plan, words and cases do not fit each other or the run, and `Cancelled` after saving.
    """
    options = options or TrainingOptions()
    if options.restart and (must_exist or only_validate):
        raise UserError("--restart deletes the run that --continue and --val need: give one of them.")
    source, root, preset = _planned(dataset, Path(root), preset)
    cases = read_splits(source.splits, list_cases(source.path)).fold(fold)
    target = FoldFolder.of(root, source.path.name, preset, fold)
    position = read_progress(target)
    if (must_exist or only_validate) and position is None:
        raise UserError(f"{target.path} holds no run to go on with: leave --continue and --val out to start one.")
    plan = _check(source, target if position and not options.restart else None, preset, cases)
    if position is None or options.restart:
        _report_other_device(plan, options.chosen_device, report)
    with alone(target), cuda_kernels():
        if not only_validate:
            fit(source.path, cases, target, options, preset, report, progress, cancel)
        return _validate(source.path, cases, target, options.chosen_device, str(fold) != ALL, report, progress, cancel)


def _planned(
    dataset: PlannedDataset | str | Path, root: Path, preset: Preset | None
) -> tuple[PreprocessedFolder, Path, Preset]:
    """The preprocessed folder, its root, and the preset to train."""
    if isinstance(dataset, PlannedDataset):
        return dataset.folder, dataset.root, preset or dataset.plan.preset
    source = PreprocessedFolder(find_folder(str(dataset), root, "preprocessed"))
    there = [one for one in PRESETS if source.plan(one).is_file()]
    if preset is None and there:
        return source, root, there[0]
    if preset is None or preset not in there:
        again = f" --preset {preset}" if preset else ""
        raise UserError(
            f"{source.path} has no plan {source.plan(preset or 'default').name} (found {', '.join(there) or 'none'}): "
            f"run tds_plan_and_preprocess{again} first."
        )
    return source, root, preset


def _report_other_device(plan: Plan, device: str, report: Report) -> None:
    """A plan for one device trains on the other, too, but is small there or takes long."""
    again = f"tds_plan_and_preprocess --preset {plan.preset}"
    if plan.device == "cpu" and device == "cuda":
        report(
            "Note: this plan was made for a CPU, so its network is small and its training short. For one that uses "
            f"this GPU, run {again} here, or elsewhere with --memory-gb 8."
        )
    if plan.device == "gpu" and device == "cpu":
        report(
            "Note: this plan was made for a GPU; on a CPU its training takes very long. For a network that fits, run "
            f"{again} without --memory-gb on a machine without a GPU."
        )


def _check(source: PreprocessedFolder, started: FoldFolder | None, preset: Preset, cases: Fold) -> Plan:
    """Before anything is written: plan, words and stored cases belong together.

    Returns the plan: of a started run its own, which must have its own cases too.
    """
    plan_path, words = (started.plan, started.words) if started else (source.plan(preset), source.words(preset))
    plan = Plan.read(plan_path)
    bank = TextBank.load(words)
    check_words([words.bank], [plan], [bank])
    if plan.reads_texts:
        read_case_texts(source.case_texts(preset), bank, ())
    check_cases(source.path, sorted({*cases.train, *cases.validation}), plan)
    refuse_beyond_budget(plan, str(plan_path))
    if started:
        refuse_other_cases(started, cases)
    return plan


def _validate(
    preprocessed: Path,
    cases: Fold,
    fold: FoldFolder,
    device: str,
    held_out: bool,
    report: Report,
    progress: OnProgress,
    cancel: Cancel,
) -> TrainedFold:
    """Choose how to sample, predict the validation cases on their original grids, calibrate, and score.

    Cases that were trained on choose and calibrate nothing: predictions are then as `read_sampling` has them without.
    """
    log = read_log(fold.log)
    trained = log[-1].seconds if log else math.inf
    names = cases.validation
    if held_out:
        allowed = min(MAX_SECONDS, max(MIN_CHOICE_SECONDS, CHOICE_SHARE * trained))
        follow = _follow(progress, cancel, "Choose steps and mirroring", "setting")
        sampling = choose_sampling(fold, preprocessed, names, device, allowed, follow)
        if (minutes := sampling.seconds * len(names) / 60) > LONG_MINUTES:
            report(f"Predicting the {len(names)} validation cases will take about {minutes:.0f} minutes.")
    follow = _follow(progress, cancel, "Predict the validation cases", "case")
    summary = validate_fold(fold, preprocessed, names, device, calibrate=held_out, progress=follow)
    if held_out:
        allowed = min(MAX_SAMPLED_SECONDS, CALIBRATION_SHARE * trained)
        follow = _follow(progress, cancel, "Calibrate the uncertainty", "case")
        calibrate_uncertainty(fold, preprocessed, names, device, allowed, follow)
    return TrainedFold(
        fold=fold,
        plan=Plan.read(fold.plan),
        summary=summary,
        held_out=held_out,
        sampling=read_sampling(fold),
        calibration=read_calibration(fold),
        latent_dice=log[-1].latent_dice if log else {},
    )


def _follow(progress: OnProgress, cancel: Cancel, stage: str, unit: str) -> WindowProgress:
    """A callback that reports each step of a stage, and stops the work where that is asked for."""

    def after(done: int, total: int) -> None:
        progress(ProgressEvent(stage, done, total, unit))
        if cancel():
            raise Cancelled(f"{stage}: stopped after {done} of {total}. Call it again: the validation begins anew.")

    return after
