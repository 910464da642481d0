"""The notes of planning: sentences for the user on the data set, the plan, and plans of other presets."""

from collections.abc import Iterator

import numpy as np

from plans.choices import PRESETS
from plans.errors import UserError, listed
from plans.fingerprint import Fingerprint
from plans.layout import PreprocessedFolder, RawFolder
from plans.plan import Plan
from plans.planning.spacing import as_option
from plans.raw.dataset import Dataset
from plans.raw.presence import presence_notes
from plans.records import is_there
from textdiffseg.data.splits import Splits, read_splits
from textdiffseg.folds.plans import plan_of_dataset
from textdiffseg.preprocessing.case import MAX_INTENSITY


def notes_of(
    dataset: Dataset,
    fingerprint: Fingerprint,
    plan: Plan,
    splits: Splits,
    text_notes: tuple[str, ...],
    folder: PreprocessedFolder,
) -> tuple[str, ...]:
    """Notes on the data set, then on the plan and on other plans."""
    found = (*dataset.notes, *presence_notes(dataset, fingerprint), *fingerprint.notes())
    found += tuple(_notes_on_values(fingerprint, plan))
    about_plans = (*_notes(plan, splits, text_notes), *_notes_on_other_plans(plan, folder))
    return (*found, *_notes_on_folds(dataset, splits, folder), *about_plans)


def _notes_on_values(fingerprint: Fingerprint, plan: Plan) -> Iterator[str]:
    """A note on each channel whose values are stored as they are, but are too large for it."""
    for number, channel in enumerate(plan.channels):
        sample = fingerprint.intensities(number)
        if channel.scheme == "none" and len(sample) and np.abs(sample).max() > MAX_INTENSITY:
            yield (
                f"Channel {channel.name} has values beyond {MAX_INTENSITY:g}. With this normalisation ({channel.name}) "
                'all of them become equal. Name the channel "zscore" in dataset.json, or write smaller values.'
            )


def _notes_on_folds(dataset: Dataset, splits: Splits, folder: PreprocessedFolder) -> Iterator[str]:
    """Notes on a file with other folds, which was added too late, and on cases in no fold."""
    for path in (folder.nnunet_splits, RawFolder(dataset.folder).nnunet_splits):
        try:
            wanted = read_splits(path, splits.cases).folds if is_there(path) else splits.folds
        except UserError as error:
            yield from error.lines
            continue
        if [fold.sides for fold in wanted] != [fold.sides for fold in splits.folds]:
            yield (
                f"{path} has other folds than {folder.splits}, which are used, as they were made before. For the new "
                "ones, delete the older file and plan again. Folds that are trained must then be trained again."
            )
    used = set[str]().union(*(side for fold in splits.folds for side in fold.sides))
    if splits.folds and (unused := sorted({*splits.cases} - used)):
        yield f"Cases that are in no fold are never used: {listed(unused)}."


def _notes(plan: Plan, splits: Splits, text_notes: tuple[str, ...]) -> Iterator[str]:
    """Notes for the user, in sentences."""
    if plan.text.of_cases and not plan.reads_texts:
        yield f"Preset {plan.preset} reads no words: the texts of cases are not used."
    else:
        yield from text_notes
    if plan.device == "cpu":
        yield "Planned for training on this CPU, as torch finds no GPU here. To plan for a GPU: --memory-gb 8."
    if plan.known_together:
        yield (
            "No case has all labels annotated. If a scan cannot contain a label that it is not annotated with, name "
            'the label under "absent" in dataset.json. Otherwise the model may find it there.'
        )
    low = None if plan.low_resolution is None else plan.low_resolution.note
    yield from filter(None, (splits.note, low, plan.text.note))


def _notes_on_other_plans(plan: Plan, folder: PreprocessedFolder) -> Iterator[str]:
    """A note for each preset whose plan has another spacing than the cases, which now have that of `plan`."""
    for preset in PRESETS:
        if preset == plan.preset or not folder.plan(preset).is_file():
            continue
        try:
            other = plan_of_dataset(folder, preset).spacing
        except UserError:
            continue  # reported when it is used
        if other != plan.spacing:
            yield (
                f"The plan of preset {preset} has a spacing of {as_option(other)} mm, and no longer fits the stored "
                f"cases. Before you train {preset}, run tds_plan_and_preprocess with --preset {preset} --spacing "
                f"{as_option(plan.spacing)}."
            )
