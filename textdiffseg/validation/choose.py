"""The choice of mirroring on validation cases, within a time limit."""

import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.evaluation.summary import summarise
from textdiffseg.files import write_record
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.sampling import Sampling, SamplingChoice, Trial, choose, settings_of_choice
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.predictor import Predictor
from textdiffseg.progress import StepProgress, share_of
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import (
    evenly_spaced,
    load_fold,
    predict_case,
    restore_labels,
    score_labels,
)
from textdiffseg.validation.timing import Deadline, OutOfTime, seconds_of

MAX_CASES, MAX_SECONDS = 8, 300.0  # of `choose_sampling`
MAX_PLANNED_SHARE = 0.8  # of the time that is left; a machine may become slower


def choose_sampling(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    max_seconds: float = MAX_SECONDS,
    progress: StepProgress | None = None,
) -> Sampling:
    """The sampling settings, tried on at most `MAX_CASES` validation cases. They are written to sampling.json.

    The cheapest setting whose score is near the best is chosen (`folds.sampling.choose`). A few windows of the smallest
    case are timed first. If `max_seconds` are too short to try it in each setting, no setting is tried. The choice
    is then no mirroring, and the table is empty. It is also empty if there is only one setting, as for all plans
    without mirroring. An earlier calibration is deleted.

    Args:
        fold: the trained fold.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the validation cases.
        device: "cpu" or "cuda".
        max_seconds: the limit of all trials.
        progress: called with (trials done, all trials).
    """
    deadline = Deadline(max_seconds)
    fold.calibration.unlink(missing_ok=True)  # it may belong to other weights
    plan = plan_of_fold(fold)
    trials, cases, table = trials_of(plan), list[StoredCase](), list[Trial]()
    if len(trials) > 1:
        plain, bank = load_fold(fold, device, Sampling(mirroring=False))
        tried = evenly_spaced(sorted(case_ids), MAX_CASES)
        cases = [open_case(preprocessed, case_id, plan) for case_id in tried]
        cases = _affordable(plain, bank, cases, trials, deadline)
        table = _try_all(trials, plain, bank, cases, deadline, progress) if cases else []
    best = choose(table, len(plan.mirror_axes)) if table else trials[0]
    sampling = Sampling(
        weights=hash_weights(fold, "best"),
        steps=best.steps,
        samples=best.samples,
        mirroring=best.mirroring,
        cases=len(cases),
        table=tuple(table),
    )
    write_record(fold.sampling, sampling)
    return sampling


def trials_of(plan: Plan) -> list[SamplingChoice]:
    """The settings to try: the mask, without mirroring and with it. The publication's presets are never mirrored."""
    mirrored = (False, True) if plan.mirror_axes and plan.mask_steps == 0 else (False,)
    return [SamplingChoice(steps=plan.mask_steps, samples=1, mirroring=mirroring) for mirroring in mirrored]


def _affordable(
    plain: Predictor, bank: TextBank, cases: Sequence[StoredCase], trials: Sequence[SamplingChoice], deadline: Deadline
) -> list[StoredCase]:
    """The cases that all trials can predict in time. Empty: there is not even time for the smallest case.

    The smallest case is predicted only if its timed windows show that there is time for it.
    """
    smallest = min(cases, key=lambda case: prod(case.record.shape))
    predict_seconds = seconds_of(plain, smallest, bank)
    passes = sum(settings_of_choice(plain.plan, trial).passes for trial in trials)
    if predict_seconds * (1 + passes) > MAX_PLANNED_SHARE * deadline.left:
        return []
    began = time.perf_counter()
    try:
        slabs = predict_case(plain, smallest, bank, progress=deadline.limit(None))
        labels = restore_labels(plain.readout, slabs, smallest)
    except OutOfTime:
        return []
    score_labels(plain.plan, smallest, labels, surfaces=False)
    score_seconds = max(0.0, time.perf_counter() - began - predict_seconds)  # restored and scored
    seconds = passes * predict_seconds + len(trials) * score_seconds
    sizes = [prod(case.record.shape) for case in cases]
    count = int(MAX_PLANNED_SHARE * deadline.left / (seconds * sum(sizes) / len(sizes) / min(sizes)))
    if count:
        return evenly_spaced(cases, count)
    return [smallest] if seconds < MAX_PLANNED_SHARE * deadline.left else []


def _try_all(
    trials: Sequence[SamplingChoice],
    plain: Predictor,
    bank: TextBank,
    cases: Sequence[StoredCase],
    deadline: Deadline,
    progress: StepProgress | None,
) -> list[Trial]:
    """The table, one row per trial. Trials that exceed the deadline are left out."""
    table: list[Trial] = []
    costs = [settings_of_choice(plain.plan, trial).passes for trial in trials]
    for number, trial in enumerate(trials):
        before, share = sum(costs[:number]) / sum(costs), costs[number] / sum(costs)
        trial_progress = deadline.limit(share_of(progress, before, share, len(trials)))
        try:
            table.append(_try(trial, plain, bank, cases, trial_progress))
        except OutOfTime:
            break
    if progress:
        progress(len(trials), len(trials))
    return table


def _try(
    trial: SamplingChoice, plain: Predictor, bank: TextBank, cases: Sequence[StoredCase], progress: StepProgress
) -> Trial:
    """The table's row of one trial."""
    plan = plain.plan
    began = time.perf_counter()
    predictor = Predictor(plain.networks, settings_of_choice(plan, trial), plain.device)
    scores = []
    for number, case in enumerate(cases):
        case_progress = share_of(progress, number / len(cases), 1 / len(cases), 1)
        labels = restore_labels(plain.readout, predict_case(predictor, case, bank, progress=case_progress), case)
        scores.append(score_labels(plan, case, labels, surfaces=False))
    seconds = (time.perf_counter() - began) / max(1, len(cases))
    return Trial(**trial.model_dump(), dice=summarise(scores).mean.dice, seconds=seconds)
