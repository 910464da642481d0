"""Calibration of a fold on validation cases (`calibration.json`)."""

from collections.abc import Sequence
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import open_case
from textdiffseg.files import write_record
from textdiffseg.folds.calibration import Fit, read_calibration
from textdiffseg.folds.sampling import read_sampling, settings_of, settings_of_uncertainty
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import WindowProgress, load_fold, predict_case, spread
from textdiffseg.validation.evidence import MIN_CASES, Evidence

MAX_SAMPLED, MAX_SAMPLED_SECONDS = 20, 120.0  # cases and time that `calibrate_uncertainty` may take


def calibrate_uncertainty(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    max_seconds: float = MAX_SAMPLED_SECONDS,
    progress: WindowProgress | None = None,
) -> Fit | None:
    """Calibrate the probabilities and volume intervals of `--uncertainty` on validation cases, in calibration.json.

    None, and nothing written, where `max_seconds` are too short for `MIN_CASES` cases (after the times that
    `choose_sampling` took), or without diffusion, whose one setting `validate_fold` calibrates.
    """
    sampling, plan = read_sampling(fold), Plan.read(fold.plan)
    plainly = [row for row in sampling.table if row.samples == 1 and not row.mirroring]
    if plan.diffusion is None or not plainly:
        return None
    settings = settings_of_uncertainty(plan, settings_of(plan, sampling))
    nearest = max(plainly, key=lambda row: row.steps)
    seconds = settings.samples * nearest.seconds * settings.steps / nearest.steps
    affordable = int(max_seconds / max(1e-3, seconds))
    if min(affordable, len(case_ids)) < MIN_CASES:
        return None
    predictor, bank = load_fold(fold, device, sampling, uncertainty=True)
    chosen = spread(sorted(case_ids), min(MAX_SAMPLED, affordable))
    return store_fit(fold, gather(predictor, bank, preprocessed, chosen, progress).fit())


def gather(
    predictor: Predictor,
    bank: TextBank,
    preprocessed: Path,
    case_ids: Sequence[str],
    progress: WindowProgress | None = None,
) -> Evidence:
    """Predict stored cases, and keep what they say about probabilities and volume intervals."""
    evidence = Evidence(predictor.plan, predictor.settings)
    for done, case_id in enumerate(case_ids, start=1):
        case = open_case(preprocessed, case_id, predictor.plan)
        evidence.add(predict_case(predictor, case, bank, uncertainty=True), case)
        if progress:
            progress(done, len(case_ids))
    return evidence


def store_fit(fold: FoldFolder, fit: Fit | None) -> Fit | None:
    """Write a fit, if there is one, in the place of an earlier one of its setting."""
    if fit is not None:
        earlier = read_calibration(fold).model_copy(update={"weights": hash_weights(fold, "best")})
        write_record(fold.calibration, earlier.with_fit(fit))
    return fit
