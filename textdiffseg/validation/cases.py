"""Prediction and scores of one stored case. It is predicted on the plan's grid and scored on the file's grid.

Scores are computed without SimpleITK. Only `write_mask` needs it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.sampling import context_query, full_query
from textdiffseg.data.store import StoredCase
from textdiffseg.degradations import degrade
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.raters import mean_over_raters
from textdiffseg.folds.sampling import PredictionSettings, Sampling, read_sampling, settings_of_choice
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.alternatives import value_table
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.scan import predicted_slabs
from textdiffseg.inference.windows import Slab
from textdiffseg.masks import LabelKey
from textdiffseg.networks.model import can_sample
from textdiffseg.progress import StepProgress
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.stored import stored_case_texts

Item = TypeVar("Item")


def load_fold(fold: FoldFolder, device: str, sampling: Sampling) -> tuple[Predictor, TextBank]:
    """A predictor of one fold's masks, and the fold's words."""
    network = load_network(fold, device=device)
    return Predictor([network], settings_of_choice(network.plan, sampling), device), TextBank.load(fold.words)


@dataclass(frozen=True)
class FoldSampler:
    """A fold that draws samples."""

    masks: Predictor  # one sample, not mirrored
    samples: Predictor
    bank: TextBank  # the fold's words


def load_sampler(
    fold: FoldFolder, device: str, settings_of: Callable[[Plan, PredictionSettings], PredictionSettings]
) -> FoldSampler | None:
    """A fold that draws samples; None if its sampler is not trained.

    `settings_of`: the settings of samples, from the plan and the settings of masks.
    """
    sampling = read_sampling(fold)
    masks, bank = load_fold(fold, device, sampling.model_copy(update={"samples": 1, "mirroring": False}))
    if not can_sample(masks.networks):
        return None
    settings = settings_of(masks.plan, settings_of_choice(masks.plan, sampling))
    return FoldSampler(masks, Predictor(masks.networks, settings, device), bank)


def predict_case(
    predictor: Predictor,
    case: StoredCase,
    bank: TextBank,
    progress: StepProgress | None = None,
    first_window: bool = False,
    degradation: tuple[str, int] | None = None,
) -> Iterator[Slab]:
    """The prediction of a stored case, slab by slab on the plan's grid.

    Its slots are the labels that are known in the case. The text of the case is read if it has one and the model reads
    texts. `UserError` names the case if its image or the network's output is not finite.

    Args:
        predictor: of the model.
        case: the stored case.
        bank: the fold's words.
        progress: called with (groups of windows done, all groups).
        first_window: predict only the first window of the case.
        degradation: the name in `DEGRADATIONS` and the seed, to predict a degraded scan; None: the scan itself.
    """
    plan = predictor.plan
    queries = queries_of(plan, case, bank)
    window = (slice(None), *(slice(size) for size in plan.patch)) if first_window else ...
    image = case.image[window].astype(np.float32)
    if degradation is not None:
        image = degrade(degradation[0], image, degradation[1])
    try:
        yield from predicted_slabs(predictor, torch.from_numpy(image), queries, progress=progress)
    except UserError as error:
        raise UserError(*error.naming(case.record.case)) from None


def queries_of(plan: Plan, case: StoredCase, bank: TextBank) -> Queries:
    """The queries for the labels that are known in a case, with its text if it has one and the model reads texts.

    The words of all other labels are read, too, as in a prediction of all labels.
    """
    name, known = case.record.case, case.record.known
    queries = bank.queries([full_query(known)], context_labels=[context_query(plan, known)])
    if plan.reads_texts:
        texts = read_case_texts(stored_case_texts(PreprocessedFolder(case.folder.parent), plan), bank, [name])
        queries = queries.with_tokens([texts.get(name)])
    return queries


def restore_labels(readout: Readout, slabs: Iterable[Slab], case: StoredCase) -> np.ndarray:
    """The label number of each voxel (D, H, W) on the file's own grid, from `predict_case`. 0 is background."""
    restoring = readout.restoring(case.record.transform)
    for slab in slabs:
        restoring.add(readout.classes_to_compare(slab.prediction.probabilities.numpy()))
    return value_table(case.record.known)[restoring.finish()]


def score_labels(plan: Plan, case: StoredCase, labels: np.ndarray, surfaces: bool, lesions: bool = False) -> CaseScores:
    """The scores of a mask from `restore_labels`, on the file's own grid. lesions: of each label, too.

    With several references, they are means over the references (`evaluation.raters`).
    """
    numbers = numbers_of(plan)[labels]
    names = scored_names(plan, case)
    spacing = case.record.transform.geometry.spacing
    counted = names.values() if lesions else ()
    originals = (case.original_labels(reference) for reference in range(case.record.references))
    return mean_over_raters(
        [
            score_case(numbers, original, spacing, names, case=case.record.case, surfaces=surfaces, lesions=counted)
            for original in originals
        ]
    )


def numbers_of(plan: Plan) -> np.ndarray:
    """The number in stored label maps that each label of a mask writes. Background comes first."""
    return value_table(plan.written_numbers)


def scored_names(plan: Plan, case: StoredCase) -> dict[LabelKey, str]:
    """The labels that are annotated in a case: number in stored label maps -> name."""
    return {plan.value_numbers[number - 1]: plan.labels[number - 1].name for number in case.record.annotated}


def write_mask(path: Path, labels: np.ndarray, plan: Plan, case: StoredCase) -> None:
    """Write a mask from `restore_labels` with the user's label values."""
    from textdiffseg.imaging.writers.files import write_labels

    values = value_table(tuple(label.value for label in plan.labels))
    write_labels(path, values[labels], case.record.transform.geometry)


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
