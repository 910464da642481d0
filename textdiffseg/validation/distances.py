"""The energy distance of a fold's samples to the references of validation cases that have several."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch

from plans.layout import FoldFolder
from textdiffseg.data.store import StoredCase, open_case, read_record
from textdiffseg.evaluation.raters import energy_distances, with_distances
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.sampling import alternative_settings
from textdiffseg.inference.alternatives import draw_masks
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.progress import StepProgress, share_of_case
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import load_sampler, numbers_of, queries_of, scored_names
from textdiffseg.validation.timing import Deadline, OutOfTime, seconds_of

MAX_DISTANCE_SECONDS = 300.0  # of `measure_distances`


def cases_with_raters(preprocessed: Path, case_ids: Sequence[str]) -> list[str]:
    """The cases with several references, the smallest first."""
    records = [read_record(preprocessed, case_id) for case_id in case_ids]
    several = [record for record in records if record.references > 1]
    return [record.case for record in sorted(several, key=lambda record: (prod(record.shape), record.case))]


def measure_distances(
    fold: FoldFolder,
    preprocessed: Path,
    case_ids: Sequence[str],
    device: str = "cpu",
    max_seconds: float = MAX_DISTANCE_SECONDS,
    progress: StepProgress | None = None,
) -> Summary:
    """The scores of a validated fold, with the energy distance of its samples. They replace summary.json.

    Nothing changes without diffusion, and if no case has several references. Cases that `max_seconds` do not suffice
    for are left out, and a note gives their number.

    Args:
        fold: the validated fold.
        preprocessed: the folder of the preprocessed data set.
        case_ids: the validation cases.
        device: "cpu" or "cuda".
        max_seconds: the limit of the whole measurement.
        progress: called with (cases done, all cases).
    """
    summary = Summary.read(fold.summary)
    plan = plan_of_fold(fold)
    names = cases_with_raters(preprocessed, case_ids)
    if plan.sample_steps is None or not names:
        return summary
    deadline = Deadline(max_seconds)
    sampler = load_sampler(fold, device, alternative_settings)
    if sampler is None:
        return summary
    networks, settings = sampler.samples.networks, sampler.samples.settings
    distances: dict[str, dict[str, float]] = {}
    for done, name in enumerate(names):
        case = open_case(preprocessed, name, plan)
        if seconds_of(sampler.masks, case, sampler.bank, settings) > deadline.left:
            break
        # With one seed, the samples of all cases would have the same common factors.
        predictor = SamplePredictor(networks, settings.model_copy(update={"seed": settings.seed + done}), device)
        case_progress = deadline.limit(share_of_case(progress, done, len(names)))
        try:
            distances[name] = _distances(predictor, case, sampler.bank, case_progress)
        except OutOfTime:
            break
    scores = [with_distances(case, distances.get(case.case, {})) for case in summary.cases]
    notes = [*summary.notes, f"ged2 was measured on {len(distances)} of {len(names)} cases with several references."]
    summary = summarise(scores, summary.tolerance_mm, notes).model_copy(update={"notes": tuple(notes)})
    write_record(fold.summary, summary)
    return summary


def _distances(
    predictor: SamplePredictor, case: StoredCase, bank: TextBank, progress: StepProgress | None
) -> dict[str, float]:
    """The energy distance of each annotated label of a case, on the file's own grid."""
    plan, known = predictor.plan, case.record.known
    image = torch.from_numpy(case.image[...].astype(np.float32))
    queries = queries_of(plan, case, bank)
    masks = draw_masks(predictor, image, case.record.transform, queries, len(known), progress)
    numbers = numbers_of(plan)[[0, *known]]
    references = [case.original_labels(reference) for reference in range(case.record.references)]
    return energy_distances([numbers[mask] for mask in masks], references, scored_names(plan, case))
