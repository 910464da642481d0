"""What is the same for all scans of a run, and what follows for one of them: its files, its request, its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from plans.errors import UserError
from plans.file_names import split_ending, written_ending
from plans.plan import Plan
from textdiffseg.files import hash_files
from textdiffseg.inference.model import Model, Segmenting
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.result import Result
from textdiffseg.tasks.manifest import Manifest, Request, Sampled, read_manifest, versions
from textdiffseg.text.case_texts import CaseText


@dataclass(frozen=True)
class PredictionRun:
    """Everything that is the same for all scans of a run."""

    model: Model
    segmenting: Segmenting
    texts: Mapping[str, CaseText]  # of the cases that have one
    out: Path
    file_name: str | None  # of the segmentation, where one scan goes to one file
    overwrite: bool
    picture: bool = False  # draw one beside each mask


def mask_path(batch: PredictionRun, case: str, paths: tuple[Path, ...]) -> Path:
    """Where the mask of a scan goes: its format is that of the scan, where that can be written."""
    ending = split_ending(paths[0].name)[1] if paths[0].is_file() else ""
    return batch.out / (batch.file_name or f"{case}{written_ending(ending)}")


def manifest_path(mask: Path) -> Path:
    """Where the manifest of a mask lies."""
    return mask.with_name(f"{split_ending(mask.name)[0]}.json")


def seems_complete(batch: PredictionRun, case: str, paths: tuple[Path, ...]) -> bool:
    """Whether the manifest says so. Neither scan nor outputs are read."""
    mask = mask_path(batch, case, paths)
    before = None if batch.overwrite else read_manifest(manifest_path(mask))
    if before is None or not before.outputs or not mask.is_file():
        return False
    return before.request == request_of(batch, case, before.request.inputs)


def manifest_of(batch: PredictionRun, request: Request, result: Result, written: tuple[str, ...]) -> Manifest:
    """The manifest of a scan that was predicted; `written` are its files."""
    return Manifest(
        request=request,
        outputs={one: hash_files([batch.out / one]) for one in written},
        labels=dict(zip(result.names, result.values, strict=True)),
        means=_means(batch.segmenting.selection, batch.segmenting.plan),
        volumes=tuple(result.volumes.values()),
        notes=result.notes,
        scan_notes=result.scan_notes,
        versions=versions(),
        device=batch.model.device,
        threads=torch.get_num_threads(),
    )


def _means(selection: Selection, plan: Plan) -> dict[str, str]:
    """The label behind each name that is not its own; words that ran by force have none."""
    labels = {number: label.name for number, label in enumerate(plan.labels, start=1)}
    pairs = zip(selection.names, selection.numbers, strict=True)
    return {name: labels[number] for name, number in pairs if labels.get(number, name) != name}


def request_of(batch: PredictionRun, case: str, inputs: dict[str, str]) -> Request:
    """The request for a scan; `inputs` are the hashes of its files by name."""
    segmenting, ensemble = batch.segmenting, batch.model.ensemble
    selection, masks, samples = segmenting.selection, segmenting.masks, segmenting.samples
    sampled = None
    if samples is not None and segmenting.samples_apart:
        sampled = Sampled(settings=samples.predictor.settings, calibration=samples.calibration)
    return Request(
        case=case,
        inputs=inputs,
        model=ensemble.hash,
        folds=ensemble.folds,
        checkpoint=ensemble.checkpoint,
        settings=masks.predictor.settings,
        calibration=masks.calibration,
        prompts=selection.prompts,
        forced=selection.forced,
        answers=selection.answers,
        text=batch.texts[case].entry.hash if case in batch.texts else None,
        probabilities=segmenting.probabilities,
        uncertainty=samples is not None,
        sampled=sampled,
    )


def check_channels(found: int, plan: Plan, paths: tuple[Path, ...]) -> None:
    """Raise `UserError` where a scan has more or fewer channels than the model reads."""
    expected = len(plan.channels)
    if found == expected:
        return
    names = ", ".join(channel.name for channel in plan.channels)
    raise UserError(
        f"{', '.join(str(path) for path in paths)}: found {found} channels, the model expects {expected} ({names}). "
        "Give one file a channel, named CASE_0000, CASE_0001, ..., or one file with all of them. Scans of their own "
        "need names that do not end so."
    )


def refuse_files_of_others(
    batch: PredictionRun, output: Path, manifest: Path, paths: tuple[Path, ...], before: Manifest | None
) -> None:
    """Raise `UserError` where writing would replace the scan itself, or a file that was not made here."""
    if output.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{output} is the scan itself. Choose another output folder.")
    if before is not None or batch.overwrite:
        return
    if output.exists():
        raise UserError(
            f"{output} exists and was not made by tds_predict (no manifest beside it). "
            "Choose another output folder, or --overwrite."
        )
    if manifest.exists():
        raise UserError(f"{manifest} is no manifest of this tds_predict. Choose another output folder, or --overwrite.")
