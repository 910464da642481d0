"""A fold's own validation: stored cases predicted, put back on the original grid and scored there.

Reads b2nd files alone, so it runs where SimpleITK is not installed. Predicted masks are written too where it is.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from plans.plan import Plan
from plans.records import Record
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.report import Summary, summarise
from textdiffseg.inference.ensemble import read_sampling
from textdiffseg.inference.predictor import Prediction, Predictor
from textdiffseg.inference.settings import LEAST_SAMPLES, LEAST_STEPS, Sampling, Trial, choose, settings_of
from textdiffseg.inference.uncertainty import coverage, interval
from textdiffseg.networks.weights import load_model
from textdiffseg.preprocessing.case import restore
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank

TRIALS = ((1, False), (1, True), (4, False))  # (steps, mirroring) that `choose_sampling` tries, with one sample each
MOST_CASES, MOST_SECONDS = 8, 300.0  # that `choose_sampling` may take; scans too large for it are tried once, plainly
Progress = Callable[[int, int], None]  # told (done, of)


class Coverage(Record):
    """How often the 90% intervals of volumes held the true volume, by label; 0.9 would be calibrated."""

    version: Literal[1] = 1
    steps: int
    samples: int
    cases: int
    labels: dict[str, float]


def validate_fold(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    checkpoint: str = "best",
    tolerance_mm: float = 1.0,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Predict the stored cases of a fold, score them on their original grids, write validation/summary.json.

    `cases_folder` holds cases/ (the data set's folder below preprocessed/). `sampling` is that of sampling.json
    unless given. Returns the summary and prints nothing.
    """
    fold_folder = Path(fold_folder)
    predictor, queries = _load(fold_folder, checkpoint, device, sampling or read_sampling(fold_folder))
    scores = []
    for done, case_id in enumerate(case_ids, start=1):
        case = open_case(cases_folder, case_id)
        slots = restore(_predict(predictor, case, queries).probabilities.numpy(), case.record.trail)
        scores.append(_score(predictor.plan, case, slots, tolerance_mm, surfaces=True))
        _write_mask(fold_folder / "validation" / f"{case_id}.nii.gz", slots, predictor.plan, case)
        if progress:
            progress(done, len(case_ids))
    text = predictor.plan.text
    summary = summarise(scores, tolerance_mm, [text.note] if text.note else [])
    summary.write(fold_folder / "validation" / "summary.json")
    return summary


def choose_sampling(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    checkpoint: str = "best",
    most_cases: int = MOST_CASES,
    progress: Progress | None = None,
) -> Sampling:
    """Try steps and mirroring on at most `most_cases` validation cases, write sampling.json and return it.

    Small gains are not worth their time: the cheapest setting near the best is taken (`settings.choose`).
    """
    fold_folder = Path(fold_folder)
    plan = Plan.read(fold_folder / "plan.json")
    trials = trials_of(plan)
    model, queries = _model_and_queries(fold_folder, checkpoint, device)
    cases = [open_case(cases_folder, case_id) for case_id in spread(sorted(case_ids), most_cases)]
    first = Predictor([model], settings_of(plan, Sampling(mirroring=False)), device)
    began = time.perf_counter()
    _predict(first, cases[0], queries)
    passes = sum(steps * (2 ** len(plan.mirror_axes) if mirroring else 1) for steps, mirroring in trials)
    affordable = MOST_SECONDS / (passes * (time.perf_counter() - began))
    cases, trials = cases[: max(1, int(affordable))], trials if affordable >= 1 else trials[:1]
    table = []
    for done, (steps, mirroring) in enumerate(trials, start=1):
        settings = settings_of(plan, Sampling(steps=steps, mirroring=mirroring))
        predictor, began = Predictor([model], settings, device), time.perf_counter()
        scores = []
        for case in cases:
            slots = restore(_predict(predictor, case, queries).probabilities.numpy(), case.record.trail)
            scores.append(_score(plan, case, slots, surfaces=False))
        seconds = (time.perf_counter() - began) / max(1, len(cases))
        dice = summarise(scores).mean.dice
        table.append(Trial(steps=steps, samples=1, mirroring=mirroring, dice=dice, seconds=seconds))
        if progress:
            progress(done, len(trials))
    best = choose(table, len(plan.mirror_axes))
    sampling = Sampling(
        steps=best.steps, samples=best.samples, mirroring=best.mirroring, cases=len(cases), table=tuple(table)
    )
    sampling.write(fold_folder / "sampling.json")
    return sampling


def trials_of(plan: Plan) -> list[tuple[int, bool]]:
    """(steps, mirroring) to try: the plan's own steps where it fixes them, as published without mirroring."""
    if plan.diffusion and plan.diffusion.steps:
        return [(plan.diffusion.steps, False)]
    return [trial for trial in TRIALS if (plan.diffusion or trial[0] == 1) and (plan.mirror_axes or not trial[1])]


def measure_coverage(
    fold_folder: Path,
    cases_folder: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    checkpoint: str = "best",
    most_cases: int = MOST_CASES,
    progress: Progress | None = None,
) -> Coverage:
    """The share of validation cases whose true volumes lie in their 90% intervals; writes validation/coverage.json.

    Only for models with diffusion: one fold without it gives no spread.
    """
    fold_folder = Path(fold_folder)
    mirroring = read_sampling(fold_folder).mirroring
    sampling = Sampling(steps=LEAST_STEPS, samples=LEAST_SAMPLES, mirroring=mirroring)
    predictor, queries = _load(fold_folder, checkpoint, device, sampling)
    names = [label.name for label in predictor.plan.labels]
    found: dict[str, list[tuple[tuple[float, float], float]]] = {name: [] for name in names}
    chosen = spread(sorted(case_ids), most_cases)
    for done, case_id in enumerate(chosen, start=1):
        case = open_case(cases_folder, case_id)
        volumes = _predict(predictor, case, queries, uncertainty=True).volumes
        trail, original = case.record.trail, case.original_labels()
        scale = np.prod(trail.cropped_shape) / np.prod(trail.shape)  # voxels of the plan's grid in the file's
        for number, name in enumerate(names, start=1):
            found[name].append((interval(volumes[..., number] * scale), float(np.count_nonzero(original == number))))
        if progress:
            progress(done, len(chosen))
    labels = {name: coverage(*zip(*pairs, strict=True)) for name, pairs in found.items() if pairs}
    result = Coverage(steps=LEAST_STEPS, samples=LEAST_SAMPLES, cases=len(chosen), labels=labels)
    result.write(fold_folder / "validation" / "coverage.json")
    return result


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _model_and_queries(fold_folder: Path, checkpoint: str, device: str):
    bank = TextBank.load(fold_folder / "text_bank.safetensors")
    return load_model(fold_folder, checkpoint, device), bank.all_labels()


def _load(fold_folder: Path, checkpoint: str, device: str, sampling: Sampling) -> tuple[Predictor, Queries]:
    model, queries = _model_and_queries(fold_folder, checkpoint, device)
    return Predictor([model], settings_of(model.plan, sampling), device), queries


def _predict(predictor: Predictor, case: StoredCase, queries: Queries, uncertainty: bool = False) -> Prediction:
    """A stored case on the plan's grid. All labels are asked for in order, so slots are label numbers."""
    image = torch.from_numpy(case.image[...].astype(np.float32))
    return predictor.predict_image(image, queries, uncertainty)


def _score(
    plan: Plan, case: StoredCase, slots: np.ndarray, tolerance_mm: float = 1.0, surfaces: bool = True
) -> CaseScores:
    names = {number: label.name for number, label in enumerate(plan.labels, start=1)}
    spacing = case.record.trail.geometry.spacing
    reference = case.original_labels()
    return score_case(slots, reference, spacing, names, tolerance_mm, case=case.record.case, surfaces=surfaces)


def _write_mask(path: Path, slots: np.ndarray, plan: Plan, case: StoredCase) -> None:
    """The mask with the user's label values, where SimpleITK is there to write it."""
    if importlib.util.find_spec("SimpleITK") is None:
        return
    from textdiffseg.imaging.io import write_labels

    values = np.array([0, *(label.value for label in plan.labels)])
    write_labels(path, values[slots], case.record.trail.geometry)
