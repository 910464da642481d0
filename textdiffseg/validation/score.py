"""Validation of a fold: its stored cases are predicted, scored on their files' grids, and used to calibrate."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from plans.geometry import triple
from plans.layout import FoldFolder
from textdiffseg.data.store import open_case, read_record
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.entropy import EntropyMap
from textdiffseg.folds.sampling import read_sampling
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.windows import Slab
from textdiffseg.progress import StepProgress, share_of
from textdiffseg.validation.calibrate import store_fit
from textdiffseg.validation.cases import (
    load_fold,
    predict_case,
    restore_labels,
    score_labels,
    write_mask,
)
from textdiffseg.validation.degrading import DEGRADED_SHARE, MIN_DEGRADED_SECONDS, add_degraded
from textdiffseg.validation.evidence import Evidence
from textdiffseg.validation.postprocessing import PostprocessingEvidence
from textdiffseg.validation.timing import Deadline

MIN_SEVERAL = 0.25  # share of a label's references with several components, from which on they are scored one by one


def validate_fold(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    calibrate: bool = False,
    progress: StepProgress | None = None,
    degrading: StepProgress | None = None,
) -> Summary:
    """The scores of a fold's stored cases on their files' own grids. They are written to validation/summary.json.

    Args:
        fold: the trained fold.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the cases to predict.
        device: "cpu" or "cuda".
        calibrate: fit a calibration to the predictions and write calibration.json, and try postprocessing steps and
            write postprocessing.json. Only for cases that the fold was not trained on. Then some degraded scans of
            these cases are predicted, too (`degrading.add_degraded`).
        progress: called with (cases done, all cases).
        degrading: called with (degraded scans done, all degraded scans).
    """
    predictor, bank = load_fold(fold, device, read_sampling(fold))
    scores, postprocessing = [], PostprocessingEvidence(predictor.plan)
    evidence = Evidence(predictor.plan, predictor.settings)
    began = time.perf_counter()
    windows = [predictor.windows(triple(read_record(preprocessed, case_id).shape)) for case_id in case_ids]
    for number, case_id in enumerate(case_ids):
        case = open_case(preprocessed, case_id, predictor.plan)
        before, share = sum(windows[:number]) / sum(windows), windows[number] / sum(windows)
        case_progress = share_of(progress, before, share, len(case_ids))
        entropy = EntropyMap(triple(case.record.shape))
        slabs = _kept(entropy, predictor, predict_case(predictor, case, bank, progress=case_progress))
        labels = restore_labels(predictor.readout, evidence.passing(slabs, case) if calibrate else slabs, case)
        scores.append(score_labels(predictor.plan, case, labels, surfaces=True, lesions=True))
        write_mask(fold.mask(case_id), labels, predictor.plan, case)
        entropy.write(fold, case_id)
        if calibrate:
            postprocessing.add(labels, case)
    note = predictor.plan.text.note
    summary = summarise(only_lesions(scores), notes=[note] if note else [])
    write_record(fold.summary, summary)
    if calibrate:
        write_record(fold.postprocessing, postprocessing.trials(hash_weights(fold, "best")))
        allowed = max(MIN_DEGRADED_SECONDS, DEGRADED_SHARE * (time.perf_counter() - began))
        add_degraded(evidence, predictor, bank, preprocessed, case_ids, Deadline(allowed), degrading)
        store_fit(fold, evidence.fit())
    return summary


def only_lesions(cases: Sequence[CaseScores]) -> list[CaseScores]:
    """The scores without those of single components, for labels that are not lesions.

    A label counts as one of lesions if at least `MIN_SEVERAL` of the references that hold it have several components.
    """
    counts: dict[str, list[float]] = {}  # components of each reference that holds the label
    for case in cases:
        for name, label in case.labels.items():
            if label.lesions is not None and label.lesions.reference:
                counts.setdefault(name, []).append(label.lesions.reference)
    lesions = {name for name, components in counts.items() if np.mean(np.array(components) > 1) >= MIN_SEVERAL}

    def only_of_lesions(name: str, label: LabelScores) -> LabelScores:
        return label if name in lesions else label.model_copy(update={"lesions": None})

    return [
        case.model_copy(update={"labels": {name: only_of_lesions(name, label) for name, label in case.labels.items()}})
        for case in cases
    ]


def _kept(entropy: EntropyMap, predictor: Predictor, slabs: Iterable[Slab]) -> Iterator[Slab]:
    """The same slabs. The entropy of each one is kept."""
    for slab in slabs:
        entropy.add(slab.first, predictor.readout.entropy(slab.prediction.probabilities, 0).numpy())
        yield slab
