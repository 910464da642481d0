"""Calibration of a fold on validation cases (`calibration.json`)."""

from collections.abc import Sequence
from pathlib import Path

from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.files import write_record
from textdiffseg.folds.calibration import CalibrationFit, read_calibration
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.sampling import uncertainty_settings
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.predictor import Predictor
from textdiffseg.progress import StepProgress, share_of_case
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import evenly_spaced, load_sampler, predict_case
from textdiffseg.validation.evidence import MIN_CASES, Evidence
from textdiffseg.validation.timing import Deadline, OutOfTime, seconds_of

MAX_CALIBRATION_CASES, MAX_CALIBRATION_SECONDS = 20, 120.0  # of `calibrate_uncertainty`


def calibrate_uncertainty(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    max_seconds: float = MAX_CALIBRATION_SECONDS,
    progress: StepProgress | None = None,
) -> CalibrationFit | None:
    """The calibration of probabilities with the setting of `--uncertainty`. It is written to calibration.json.

    Returns None and writes nothing in two cases. `max_seconds` are too short for `MIN_CASES` cases, or the plan has no
    diffusion: then `validate_fold` calibrates its only setting. The time is estimated from a few windows. Cases that
    exceed it after all are left out.

    Args:
        fold: the trained fold.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the validation cases.
        device: "cpu" or "cuda".
        max_seconds: the limit of the whole calibration.
        progress: called with (cases done, all cases).
    """
    if plan_of_fold(fold).sample_steps is None or len(case_ids) < MIN_CASES:
        return None
    deadline = Deadline(max_seconds)
    sampler = load_sampler(fold, device, uncertainty_settings)
    if sampler is None:
        return None
    middle = open_case(preprocessed, sorted(case_ids)[len(case_ids) // 2])
    seconds = seconds_of(sampler.masks, middle, sampler.bank, sampler.samples.settings)
    affordable = int(deadline.left / max(1e-3, seconds))
    if affordable < MIN_CASES:
        return None
    chosen = evenly_spaced(sorted(case_ids), min(MAX_CALIBRATION_CASES, affordable))
    return store_fit(fold, gather(sampler.samples, sampler.bank, preprocessed, chosen, progress, deadline).fit())


def gather(
    predictor: Predictor,
    bank: TextBank,
    preprocessed: Path,
    case_ids: Sequence[str],
    progress: StepProgress | None = None,
    deadline: Deadline | None = None,
) -> Evidence:
    """The evidence of predicted cases, for a calibration. At `deadline`, other cases are left out."""
    evidence = Evidence(predictor.plan, predictor.settings)
    for done, case_id in enumerate(case_ids):
        case = open_case(preprocessed, case_id, predictor.plan)
        case_progress = share_of_case(progress, done, len(case_ids))
        if deadline is not None:
            case_progress = deadline.limit(case_progress)
        try:
            slabs = predict_case(predictor, case, bank, progress=case_progress)
            evidence.add(slabs, case)
        except OutOfTime:
            break
    return evidence


def store_fit(fold: FoldFolder, fit: CalibrationFit | None) -> CalibrationFit | None:
    """The fit. It replaces the earlier fit of the same setting in calibration.json. None: nothing is written."""
    if fit is not None:
        earlier = read_calibration(fold).model_copy(update={"weights": hash_weights(fold, "best")})
        write_record(fold.calibration, earlier.with_fit(fit))
    return fit
