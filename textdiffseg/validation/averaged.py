"""The scores of several models that are averaged, on the validation cases of their folds."""

from collections.abc import Sequence
from pathlib import Path

from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.evaluation.metrics import CaseScores
from textdiffseg.folds.ensemble import ensemble_of
from textdiffseg.folds.sampling import settings_of_choice
from textdiffseg.inference.predictor import Predictor
from textdiffseg.precision import cuda_kernels
from textdiffseg.progress import StepProgress, share_of_case
from textdiffseg.validation.cases import predict_case, restore_labels, score_labels


@cuda_kernels()
def score_averaged(
    folds: Sequence[FoldFolder],
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    progress: StepProgress | None = None,
) -> tuple[CaseScores, ...]:
    """The scores of masks from the mean of several folds' probabilities, on the cases' own grids.

    Args:
        folds: one of each model, with the same validation cases.
        preprocessed: the folder of the stored cases, at the resolution of the folds.
        case_ids: cases that no fold was trained on.
        device: "cpu" or "cuda".
        progress: called with (cases done, all cases).
    """
    ensemble = ensemble_of(folds, device=device)
    predictor = Predictor(ensemble.networks, settings_of_choice(ensemble.plan, ensemble.sampling), device)
    scores = []
    for number, case_id in enumerate(case_ids):
        case = open_case(preprocessed, case_id, predictor.plan)
        case_progress = share_of_case(progress, number, len(case_ids))
        slabs = predict_case(predictor, case, ensemble.bank, progress=case_progress)
        labels = restore_labels(predictor.readout, slabs, case)
        scores.append(score_labels(predictor.plan, case, labels, surfaces=True))
    return tuple(scores)
