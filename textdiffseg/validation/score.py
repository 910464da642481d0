"""Validation of a fold: its stored cases are predicted, scored on their files' grids, and used to calibrate."""

from collections.abc import Sequence
from pathlib import Path

from plans.geometry import triple
from plans.layout import FoldFolder
from textdiffseg.data.store import open_case, read_record
from textdiffseg.evaluation.report import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.validation.calibrate import store_fit
from textdiffseg.validation.cases import (
    WindowProgress,
    load_fold,
    predict_case,
    restore_slots,
    score_slots,
    within,
    write_mask,
)
from textdiffseg.validation.evidence import Evidence


def validate_fold(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    sampling: Sampling | None = None,
    calibrate: bool = False,
    progress: WindowProgress | None = None,
) -> Summary:
    """The scores of a fold's stored cases on their files' own grids. They are written to validation/summary.json.

    Args:
        fold: the trained fold.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the cases to predict.
        device: "cpu" or "cuda".
        sampling: None: that of sampling.json.
        calibrate: fit a calibration to the predictions and write calibration.json. Only for cases that the fold was
            not trained on.
        progress: called with (cases done, all cases).
    """
    predictor, bank = load_fold(fold, device, sampling or read_sampling(fold))
    volumes = calibrate and predictor.plan.sample_steps is None  # of masks: without diffusion there are no samples
    scores, evidence = [], Evidence(predictor.plan, predictor.settings)
    windows = [predictor.windows(triple(read_record(preprocessed, case_id).shape)) for case_id in case_ids]
    for number, case_id in enumerate(case_ids):
        case = open_case(preprocessed, case_id, predictor.plan)
        before, share = sum(windows[:number]) / sum(windows), windows[number] / sum(windows)
        follow = within(progress, before, share, len(case_ids))
        prediction = predict_case(predictor, case, bank, uncertainty=volumes, progress=follow)
        slots = restore_slots(predictor.readout, prediction, case)
        if calibrate:
            evidence.add(prediction, case)
        scores.append(score_slots(predictor.plan, case, slots, surfaces=True))
        write_mask(fold.mask(case_id), slots, predictor.plan, case)
    text = predictor.plan.text
    summary = summarise(scores, notes=[text.note] if text.note else [])
    write_record(fold.summary, summary)
    store_fit(fold, evidence.fit())
    return summary
