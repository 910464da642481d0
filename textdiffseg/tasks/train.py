"""Train one fold, then predict and score its validation cases on their original grids. Run again, it goes on."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError, listed
from plans.folders import find_folder
from plans.layout import FoldFolder, PreprocessedFolder
from plans.memory import refuse_beyond_budget
from plans.plan import Plan
from plans.presets import PRESETS, Preset
from textdiffseg.data.splits import Fold, Splits, read_splits
from textdiffseg.data.store import check_cases, list_cases
from textdiffseg.evaluation.report import Summary
from textdiffseg.extras import require
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.cases import FoldCases, refuse_other_cases
from textdiffseg.folds.ensemble import check_words
from textdiffseg.folds.lock import alone, refuse_while_planned
from textdiffseg.folds.progress import read_progress
from textdiffseg.folds.replacing import put_back
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.folds.state import is_validated, note_validated
from textdiffseg.leftovers import sweep
from textdiffseg.pace import Forecast, duration
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.tasks.begun import is_started, read_plan, refuse_planned_anew
from textdiffseg.tasks.plan import PlannedDataset
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.places import stored_case_texts, stored_words
from textdiffseg.training.checkpoint import complete_best
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import fit
from textdiffseg.training.run import TrainingOptions
from textdiffseg.validation.calibrate import MAX_SAMPLED_SECONDS, calibrate_uncertainty
from textdiffseg.validation.cases import WindowProgress
from textdiffseg.validation.choose import MAX_SECONDS, choose_sampling
from textdiffseg.validation.findings import LabelFinding, findings_of
from textdiffseg.validation.score import validate_fold

ALL = "all"
LONG_CHECK_SECONDS = 5.0  # of reading the stored cases, after which it is shown
# Shares of the training's time that may go into choosing steps and mirroring, at least so many seconds, and into
# calibrating the uncertainty, so that short runs stay short.
CHOICE_SHARE, MIN_CHOICE_SECONDS, CALIBRATION_SHARE = 0.2, 30.0, 0.1


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold, and how good it is on the cases kept from it."""

    fold: FoldFolder
    plan: Plan
    summary: Summary  # scores on the original grids
    findings: tuple[LabelFinding, ...]  # which labels are found in how many of the validation cases
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
    """Train a fold, resume where an earlier call stopped, and validate it.

    Args:
        dataset: what `plan` returned, or the id, name or folder of a planned data set below `root`.
        fold: 0 to 4, or "all" to train on every case.
        options: length, device, seed, ...; None: the plan's own.
        preset: whose plan; None: that of `dataset`, else the first that is planned.
        must_exist: refuse to start a run; go on with one.
        only_validate: predict and score the validation cases of a run again.

    A CPU with AMX trains in float32 unless ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 is set before torch is imported, which
    the commands do: with AMX, oneDNN computes wrong bfloat16 gradients on thin grids, or crashes.

    Raises `UserError` where plan, words and cases do not fit each other or the run, or where the extra `train` is not
    installed, and `Cancelled` after saving.
    """
    require("train", "tds_train")
    options = options or TrainingOptions()
    if options.restart and (must_exist or only_validate):
        raise UserError("--restart deletes the run that --continue and --val need: give one of them.")
    source, root, preset = _planned(dataset, Path(root), preset)
    cases = _read_folds(source).fold(fold)
    target = FoldFolder.of(root, source.path.name, preset, fold)
    _recover_restart(target, report)
    started = is_started(target, options, must_exist, only_validate)
    plan = _check(source, target if started else None, preset, cases, progress)
    if not started:
        _report_other_device(plan, options.chosen_device, report)
    with alone(target), cuda_kernels():
        refuse_while_planned(source)
        sweep([target.path, target.validation])
        if only_validate:
            complete_best(target, report)
        elif not _train(source, cases, target, options, preset, report, progress, cancel) and is_validated(target):
            report(_finished(target))
            return _found(target, str(fold) != ALL)
        return _validate(source.path, cases, target, options.chosen_device, str(fold) != ALL, report, progress, cancel)


def _recover_restart(fold: FoldFolder, report: Report) -> None:
    """Put the old fold back where a restart was killed before its first checkpoint."""
    if fold.replaced.is_dir():
        with alone(fold):
            put_back(fold, report)


def _train(
    source: PreprocessedFolder,
    cases: Fold,
    fold: FoldFolder,
    options: TrainingOptions,
    preset: Preset,
    report: Report,
    progress: OnProgress,
    cancel: Cancel,
) -> bool:
    """Train to the end; False where a finished fold is left as it is."""
    before = None if options.restart else read_progress(fold)
    fit(source.path, cases, fold, options, preset, report, progress, cancel)
    trained = before is None or read_progress(fold) != before
    if not trained and not is_validated(fold):
        report(f"{fold.path} is trained, but not validated to the end: the validation begins anew.")
    return trained


def _finished(fold: FoldFolder) -> str:
    """What is there of a fold that is trained and validated, and how it is trained longer."""
    progress = read_progress(fold)
    done = progress and f"{progress.epochs} epochs, {progress.seconds / 60:.3g} minutes"
    return (
        f"{fold.path} is trained ({done}) and validated: nothing is left to do. To train it longer, give "
        "more --epochs or --max-minutes; to validate it again, --val."
    )


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


def _read_folds(source: PreprocessedFolder) -> Splits:
    """The folds, whose cases must all be stored."""
    stored = list_cases(source.path)
    if source.splits.is_file() and (missing := {*Splits.read(source.splits).cases} - {*stored}):
        raise UserError(f"{source.cases}: not stored: {listed(sorted(missing))}. Run tds_plan_and_preprocess again.")
    return read_splits(source.splits, stored)


def _check(
    source: PreprocessedFolder, started: FoldFolder | None, preset: Preset, cases: Fold, progress: OnProgress
) -> Plan:
    """Before anything is written: plan, words and stored cases belong together.

    Returns the plan: of a started run its own, which must have its own cases too.
    """
    plan_path = started.plan if started else source.plan(preset)
    plan = read_plan(plan_path, preset)
    if started and source.plan(preset).is_file():
        refuse_planned_anew(started, plan, source, preset)
    words = started.words if started else stored_words(source, plan)
    bank = TextBank.load(words)
    check_words([words.bank], [plan], [bank])
    if plan.reads_texts:
        read_case_texts(stored_case_texts(source, plan), bank, ())
    began = time.perf_counter()

    def checked(done: int, total: int) -> None:
        if time.perf_counter() - began > LONG_CHECK_SECONDS:
            progress(ProgressEvent("Check the stored cases", done, total, "case"))

    check_cases(source.path, sorted({*cases.train, *cases.validation}), plan, checked)
    refuse_beyond_budget(plan, str(plan_path))
    if started:
        refuse_other_cases(started, FoldCases.of(plan.dataset, cases.train, cases.validation))
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
        if not choose_sampling(fold, preprocessed, names, device, allowed, follow).table:
            report(
                "Steps and mirroring were not compared: one case in each setting would take longer than "
                f"{duration(allowed)}. Predictions take the fewest steps and no mirroring."
            )
    forecast = Forecast(f"Predicting the {len(names)} validation cases", report)
    follow = _follow(progress, cancel, "Predict the validation cases", "case", forecast)
    validate_fold(fold, preprocessed, names, device, calibrate=held_out, progress=follow)
    if held_out:
        allowed = min(MAX_SAMPLED_SECONDS, CALIBRATION_SHARE * trained)
        follow = _follow(progress, cancel, "Calibrate the uncertainty", "case")
        calibrate_uncertainty(fold, preprocessed, names, device, allowed, follow)
    note_validated(fold)
    return _found(fold, held_out)


def _found(fold: FoldFolder, held_out: bool) -> TrainedFold:
    """A validated fold, read from its files."""
    log, summary = read_log(fold.log), Summary.read(fold.summary)
    return TrainedFold(
        fold=fold,
        plan=Plan.read(fold.plan),
        summary=summary,
        findings=findings_of(summary, log),
        held_out=held_out,
        sampling=read_sampling(fold),
        calibration=read_calibration(fold),
        latent_dice=log[-1].latent_dice if log else {},
    )


def _follow(
    progress: OnProgress, cancel: Cancel, stage: str, unit: str, forecast: Forecast | None = None
) -> WindowProgress:
    """A callback that reports each step of a stage, and stops the work where that is asked for."""

    def after(done: float, total: float) -> None:
        progress(ProgressEvent(stage, done, total, unit))
        if forecast:
            forecast(done, total)
        if cancel():
            raise Cancelled(
                f"{stage}: stopped after {int(done)} of {total:g}. Call it again: the validation begins anew."
            )

    return after
