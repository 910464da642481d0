"""A fold's own validation: stored cases predicted, put back on the original grid and scored there, and what they teach.

`choose_sampling` begins it (and forgets what was fitted before), `validate_fold` scores the masks and calibrates the
probabilities that they come from, `calibrate_uncertainty` does so for the samples behind `--uncertainty`.
Reads b2nd files alone, so it runs where SimpleITK is not installed. Predicted masks are written too where it is.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from plans.plan import FOLD_BANK, FOLD_PLAN, Plan, texts_file
from textdiffseg.data.sampling import full_query
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.report import Summary, summarise
from textdiffseg.inference.calibration import CALIBRATION, Fit, read_calibration
from textdiffseg.inference.ensemble import read_sampling
from textdiffseg.inference.evidence import LEAST_CASES, Evidence
from textdiffseg.inference.predictor import Prediction, Predictor
from textdiffseg.inference.settings import (
    SAMPLING,
    Sampling,
    Setting,
    Trial,
    choose,
    settings_of,
    settings_of_uncertainty,
)
from textdiffseg.networks.weights import load_model
from textdiffseg.preprocessing.case import restore
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts

TRIALS = tuple(  # that `choose_sampling` tries
    Setting(steps=steps, samples=1, mirroring=mirroring) for steps, mirroring in ((1, False), (1, True), (4, False))
)
MOST_CASES, MOST_SECONDS = 8, 300.0  # that `choose_sampling` may take
MOST_SAMPLED, MOST_SAMPLED_SECONDS = 20, 120.0  # cases and time that `calibrate_uncertainty` may take
Progress = Callable[[int, int], None]  # told (done, of)
Item = TypeVar("Item")


def validate_fold(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    sampling: Sampling | None = None,
    calibrate: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Predict the stored cases of a fold, score them on their original grids, write validation/summary.json.

    `cases_folder` holds cases/ (the data set's folder below preprocessed/). `sampling` is that of sampling.json
    unless given. With `calibrate`, which is for cases kept from training, the same predictions are calibrated and
    calibration.json is written. Returns the summary and prints nothing.
    """
    fold_folder = Path(fold_folder)
    predictor, bank = load_fold(fold_folder, device, sampling or read_sampling(fold_folder))
    volumes = calibrate and predictor.schedule is None  # of the mask itself: without diffusion there are no samples
    scores, evidence = [], Evidence(predictor.plan, predictor.settings)
    for done, case_id in enumerate(case_ids, start=1):
        case = open_case(cases_folder, case_id)
        prediction = _predict(predictor, case, bank, uncertainty=volumes)
        slots = _restore(predictor.plan, prediction, case)
        if calibrate:
            evidence.add(prediction, case)
        scores.append(_score(predictor.plan, case, slots, surfaces=True))
        _write_mask(fold_folder / "validation" / f"{case_id}.nii.gz", slots, predictor.plan, case)
        if progress:
            progress(done, len(case_ids))
    text = predictor.plan.text
    summary = summarise(scores, notes=[text.note] if text.note else [])
    summary.write(fold_folder / "validation" / "summary.json")
    _store(fold_folder, evidence.fit())
    return summary


def choose_sampling(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    most_seconds: float = MOST_SECONDS,
    progress: Progress | None = None,
) -> Sampling:
    """Try steps and mirroring on at most `MOST_CASES` validation cases, write sampling.json and return it.

    Small gains are not worth their time: the cheapest setting near the best is taken (`settings.choose`). How many
    cases fit into `most_seconds` the smallest one tells; where not one does in each setting, that one is tried plainly:
    one step, no mirroring.
    """
    fold_folder = Path(fold_folder)
    (fold_folder / CALIBRATION).unlink(missing_ok=True)  # it may be of other weights
    first, bank = load_fold(fold_folder, device, Sampling(mirroring=False))
    plan, trials = first.plan, trials_of(first.plan)
    cases = [open_case(cases_folder, case_id) for case_id in spread(sorted(case_ids), MOST_CASES)]
    sizes = [prod(case.record.shape) for case in cases]
    smallest = cases[sizes.index(min(sizes))]
    for _ in range(2 if first.device.type == "cuda" else 1):  # a GPU's first one looks for the fastest kernels
        began = time.perf_counter()
        prediction = _predict(first, smallest, bank)
        predicted = time.perf_counter()
    _score(plan, smallest, _restore(plan, prediction, smallest), surfaces=False)
    passes = sum(trial.cost(len(plan.mirror_axes)) for trial in trials)
    seconds = passes * (predicted - began) + len(trials) * (time.perf_counter() - predicted)
    affordable = int(most_seconds / (seconds * sum(sizes) / len(sizes) / min(sizes)))
    cases, trials = (spread(cases, affordable), trials) if affordable else ([smallest], trials[:1])
    table = []
    for done, trial in enumerate(trials, start=1):
        predictor, began = Predictor(first.models, settings_of(plan, trial), device), time.perf_counter()
        scores = []
        for case in cases:
            slots = _restore(plan, _predict(predictor, case, bank), case)
            scores.append(_score(plan, case, slots, surfaces=False))
        seconds = (time.perf_counter() - began) / max(1, len(cases))
        dice = summarise(scores).mean.dice
        table.append(Trial(**trial.model_dump(), dice=dice, seconds=seconds))
        if progress:
            progress(done, len(trials))
    best = choose(table, len(plan.mirror_axes))
    sampling = Sampling(
        steps=best.steps, samples=best.samples, mirroring=best.mirroring, cases=len(cases), table=tuple(table)
    )
    sampling.write(fold_folder / SAMPLING)
    return sampling


def trials_of(plan: Plan) -> list[Setting]:
    """What to try: the plan's own steps where it fixes them, as published without mirroring."""
    if plan.diffusion and plan.diffusion.steps:
        return [Setting(steps=plan.diffusion.steps, samples=1, mirroring=False)]
    return [
        trial for trial in TRIALS if (plan.diffusion or trial.steps == 1) and (plan.mirror_axes or not trial.mirroring)
    ]


def calibrate_uncertainty(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    most_seconds: float = MOST_SAMPLED_SECONDS,
    progress: Progress | None = None,
) -> Fit | None:
    """Calibrate the probabilities and volume intervals of `--uncertainty` on validation cases, in calibration.json.

    None, and nothing written, where `most_seconds` are too short for `LEAST_CASES` cases (after the times that
    `choose_sampling` took), or without diffusion, whose one setting `validate_fold` calibrates.
    """
    fold_folder = Path(fold_folder)
    sampling, plan = read_sampling(fold_folder), Plan.read(fold_folder / FOLD_PLAN)
    plainly = [row for row in sampling.table if row.samples == 1 and not row.mirroring]
    if plan.diffusion is None or not plainly:
        return None
    settings = settings_of_uncertainty(plan, settings_of(plan, sampling))
    nearest = max(plainly, key=lambda row: row.steps)
    seconds = settings.samples * nearest.seconds * settings.steps / nearest.steps
    affordable = int(most_seconds / max(1e-3, seconds))
    if min(affordable, len(case_ids)) < LEAST_CASES:
        return None
    predictor, bank = load_fold(fold_folder, device, sampling, uncertainty=True)
    chosen = spread(sorted(case_ids), min(MOST_SAMPLED, affordable))
    evidence = gather(predictor, bank, cases_folder, chosen, progress)
    return _store(fold_folder, evidence.fit())


def gather(
    predictor: Predictor,
    bank: TextBank,
    cases_folder: Path,
    case_ids: Sequence[str],
    progress: Progress | None = None,
) -> Evidence:
    """Predict stored cases, and keep what they say about probabilities and volume intervals."""
    evidence = Evidence(predictor.plan, predictor.settings)
    for done, case_id in enumerate(case_ids, start=1):
        case = open_case(cases_folder, case_id)
        evidence.add(_predict(predictor, case, bank, uncertainty=True), case)
        if progress:
            progress(done, len(case_ids))
    return evidence


def _store(fold_folder: Path, fit: Fit | None) -> Fit | None:
    if fit is not None:
        read_calibration(fold_folder).with_fit(fit).write(fold_folder / CALIBRATION)
    return fit


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def load_fold(
    fold_folder: Path, device: str, sampling: Sampling, uncertainty: bool = False
) -> tuple[Predictor, TextBank]:
    """A predictor of one fold, with what `sampling` means for masks or for uncertainty, and the fold's words."""
    model = load_model(fold_folder, device=device)
    bank = TextBank.load(fold_folder / FOLD_BANK)
    settings = settings_of(model.plan, sampling)
    if uncertainty:
        settings = settings_of_uncertainty(model.plan, settings)
    return Predictor([model], settings, device), bank


def _predict(predictor: Predictor, case: StoredCase, bank: TextBank, uncertainty: bool = False) -> Prediction:
    """A stored case on the plan's grid, with its text where the model reads texts and it has one.

    It is asked for the labels that are known of it, since what no training case tells beside them is not learned
    there. Classes are label numbers all the same (`Prediction.by_label`).
    """
    plan, name, known = predictor.plan, case.record.case, case.record.known
    queries = bank.queries([full_query(known)])
    if plan.reads_texts:
        texts = read_case_texts(case.folder.parent / texts_file(plan.preset), bank, [name])
        queries = queries.with_tokens([texts.get(name)])
    image = torch.from_numpy(case.image[...].astype(np.float32))
    return predictor.predict_image(image, queries, uncertainty).by_label(known, len(plan.labels))


def _restore(plan: Plan, prediction: Prediction, case: StoredCase) -> np.ndarray:
    """The label number of each voxel on the file's own grid."""
    return restore(prediction.probabilities.numpy(), case.record.trail, plan.regions is not None)


def _score(plan: Plan, case: StoredCase, slots: np.ndarray, surfaces: bool) -> CaseScores:
    names = {plan.parts[number - 1]: plan.labels[number - 1].name for number in case.record.annotated}
    numbers = np.array([0, *plan.written_numbers])[slots]
    spacing = case.record.trail.geometry.spacing
    reference = case.original_labels()
    return score_case(numbers, reference, spacing, names, case=case.record.case, surfaces=surfaces)


def _write_mask(path: Path, slots: np.ndarray, plan: Plan, case: StoredCase) -> None:
    """The mask with the user's label values, where SimpleITK is there to write it."""
    if importlib.util.find_spec("SimpleITK") is None:
        return
    from textdiffseg.imaging.io import write_labels

    values = np.array([0, *(label.value for label in plan.labels)])
    write_labels(path, values[slots], case.record.trail.geometry)
