"""How to sample: steps and mirroring, chosen on validation cases within a share of the time."""

import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.evaluation.report import summarise
from textdiffseg.files import write_record
from textdiffseg.folds.sampling import Sampling, Setting, Trial, choose, settings_of
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import WindowProgress, load_fold, predict_case, restore_slots, score_slots, spread

TRIALS = tuple(  # that `choose_sampling` tries
    Setting(steps=steps, samples=1, mirroring=mirroring) for steps, mirroring in ((1, False), (1, True), (4, False))
)
MAX_CASES, MAX_SECONDS = 8, 300.0  # that `choose_sampling` may take


def choose_sampling(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    max_seconds: float = MAX_SECONDS,
    progress: WindowProgress | None = None,
) -> Sampling:
    """Try steps and mirroring on at most `MAX_CASES` validation cases, write sampling.json and return it.

    Small gains are not worth their time: the cheapest setting near the best is taken (`folds.sampling.choose`). The
    smallest case is timed to decide how many cases fit into `max_seconds`. Where not one does in each setting, that
    one is tried plainly: one step, no mirroring. What was fitted before is forgotten.
    """
    fold.calibration.unlink(missing_ok=True)  # it may be of other weights
    first, bank = load_fold(fold, device, Sampling(mirroring=False))
    axes, trials = len(first.plan.mirror_axes), trials_of(first.plan)
    cases = [open_case(preprocessed, case_id, first.plan) for case_id in spread(sorted(case_ids), MAX_CASES)]
    affordable = _affordable(first, bank, cases, trials, max_seconds)
    cases, trials = (spread(cases, affordable), trials) if affordable else ([_smallest(cases)], trials[:1])
    table = []
    for done, trial in enumerate(trials, start=1):
        table.append(_try(trial, first, bank, cases))
        if progress:
            progress(done, len(trials))
    best = choose(table, axes)
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


def trials_of(plan: Plan) -> list[Setting]:
    """What to try: the plan's own steps where it fixes them, as published without mirroring."""
    if plan.diffusion and plan.diffusion.steps:
        return [Setting(steps=plan.diffusion.steps, samples=1, mirroring=False)]
    return [
        trial for trial in TRIALS if (plan.diffusion or trial.steps == 1) and (plan.mirror_axes or not trial.mirroring)
    ]


def _affordable(
    first: Predictor, bank: TextBank, cases: Sequence[StoredCase], trials: Sequence[Setting], max_seconds: float
) -> int:
    """How many cases all trials can be made on within `max_seconds`, by the time that the smallest one takes."""
    plan, smallest = first.plan, _smallest(cases)
    for _ in range(2 if first.device.type == "cuda" else 1):  # a GPU's first one looks for the fastest kernels
        began = time.perf_counter()
        prediction = predict_case(first, smallest, bank)
        predicted = time.perf_counter()
    score_slots(plan, smallest, restore_slots(first.readout, prediction, smallest), surfaces=False)
    passes = sum(trial.cost(len(plan.mirror_axes)) for trial in trials)
    seconds = passes * (predicted - began) + len(trials) * (time.perf_counter() - predicted)
    sizes = [prod(case.record.shape) for case in cases]
    return int(max_seconds / (seconds * sum(sizes) / len(sizes) / min(sizes)))


def _smallest(cases: Sequence[StoredCase]) -> StoredCase:
    return min(cases, key=lambda case: prod(case.record.shape))


def _try(trial: Setting, first: Predictor, bank: TextBank, cases: Sequence[StoredCase]) -> Trial:
    """One row of the table."""
    plan, began = first.plan, time.perf_counter()
    predictor = Predictor(first.networks, settings_of(plan, trial), first.device)
    scores = []
    for case in cases:
        slots = restore_slots(first.readout, predict_case(predictor, case, bank), case)
        scores.append(score_slots(plan, case, slots, surfaces=False))
    seconds = (time.perf_counter() - began) / max(1, len(cases))
    return Trial(**trial.model_dump(), dice=summarise(scores).mean.dice, seconds=seconds)
