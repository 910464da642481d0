"""Validate a trained fold: choose how to sample, predict its validation cases, calibrate, and score."""

import math
from dataclasses import dataclass
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.splits import Split
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.calibration import Calibration, read_calibration
from textdiffseg.folds.changed import note_contents
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.postprocessing import Postprocessing, postprocessing_of
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.folds.state import note_validated
from textdiffseg.pace import Forecast, duration
from textdiffseg.progress import Cancel, OnProgress, Report, StepProgress, step_reporter
from textdiffseg.training.log import read_log
from textdiffseg.validation.calibrate import MAX_CALIBRATION_SECONDS, calibrate_uncertainty
from textdiffseg.validation.choose import MAX_SECONDS, choose_sampling, trials_of
from textdiffseg.validation.distances import MAX_DISTANCE_SECONDS, cases_with_raters, measure_distances
from textdiffseg.validation.findings import LabelFinding, findings_of
from textdiffseg.validation.score import validate_fold

# Shares of the training time for choosing mirroring (with a minimum in seconds), and for calibrating the
# uncertainty. So the validation of a short run is short.
CHOICE_SHARE, MIN_CHOICE_SECONDS, CALIBRATION_SHARE = 0.2, 30.0, 0.1


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold, and its scores on its validation cases."""

    fold: FoldFolder
    plan: Plan
    summary: Summary  # scores on the original grids
    findings: tuple[LabelFinding, ...]  # in how many validation cases each label is found
    held_out: bool  # False: fold all, whose validation cases were trained on
    sampling: Sampling
    calibration: Calibration
    postprocessing: dict[str, Postprocessing]  # by label; of predictions with this fold alone
    latent_dice: dict[str, float]  # per label: Dice of decoded true latents


def validate(
    preprocessed: Path,
    split: Split,
    fold: FoldFolder,
    device: str,
    held_out: bool,
    report: Report,
    progress: OnProgress,
    cancel: Cancel,
) -> TrainedFold:
    """The fold after validation: sampling chosen, validation cases predicted on their files' grids, calibrated, scored.

    If the fold was trained on its validation cases (`held_out` is False), nothing is chosen or calibrated.
    """
    fold.validated.unlink(missing_ok=True)  # if this is interrupted, the next call validates again
    log = read_log(fold.log)
    trained = log[-1].seconds if log else math.inf
    names = split.validation
    if held_out:
        allowed = min(MAX_SECONDS, max(MIN_CHOICE_SECONDS, CHOICE_SHARE * trained))
        steps = _steps(progress, cancel, "Choose mirroring", "setting")
        sampling = choose_sampling(fold, preprocessed, names, device, allowed, steps)
        if not sampling.table and len(trials_of(plan_of_fold(fold))) > 1:
            report(
                f"Mirroring was not tried: one case with and without it would take longer than {duration(allowed)}. "
                "Predictions use no mirroring."
            )
    forecast = Forecast(f"Predicting the {len(names)} validation cases", report)
    predicting = _steps(progress, cancel, "Predict the validation cases", "case", forecast)
    degrading = _steps(progress, cancel, "Predict degraded validation scans", "scan")
    validate_fold(fold, preprocessed, names, device, calibrate=held_out, progress=predicting, degrading=degrading)
    if held_out:
        allowed = min(MAX_CALIBRATION_SECONDS, CALIBRATION_SHARE * trained)
        steps = _steps(progress, cancel, "Calibrate the uncertainty", "case")
        calibrate_uncertainty(fold, preprocessed, names, device, allowed, steps)
        if cases_with_raters(preprocessed, names):
            allowed = min(MAX_DISTANCE_SECONDS, max(MIN_CHOICE_SECONDS, CALIBRATION_SHARE * trained))
            steps = _steps(progress, cancel, "Compare samples with the raters", "case")
            measure_distances(fold, preprocessed, names, device, allowed, steps)
    trained_one = trained_fold(fold, held_out)
    findings = [finding for finding in trained_one.findings if finding.cases]
    note_contents(fold, preprocessed, names)
    note_validated(fold, {finding.label: finding.found / finding.cases for finding in findings})
    return trained_one


def trained_fold(fold: FoldFolder, held_out: bool) -> TrainedFold:
    """The result of a validated fold, read from its files."""
    log, summary = read_log(fold.log), Summary.read(fold.summary)
    return TrainedFold(
        fold=fold,
        plan=plan_of_fold(fold),
        summary=summary,
        findings=findings_of(summary, log),
        held_out=held_out,
        sampling=read_sampling(fold),
        calibration=read_calibration(fold),
        postprocessing=postprocessing_of([[fold]]),
        latent_dice=log[-1].latent_dice if log else {},
    )


def _steps(
    progress: OnProgress, cancel: Cancel, stage: str, unit: str, forecast: Forecast | None = None
) -> StepProgress:
    """A callback that reports each step of a stage, and stops the work if `cancel` returns True."""
    stopped = f"{stage}: stopped after {{done}} of {{total}}. Call it again: the validation starts again."
    return step_reporter(progress, cancel, stage, unit, stopped, forecast=forecast)
