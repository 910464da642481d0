"""The settings of a run over scans, and for one scan its paths, its request and its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from plans.errors import UserError
from plans.file_names import manifest_path, split_ending, written_ending
from plans.plan import Plan
from textdiffseg.files import hash_files
from textdiffseg.inference.model import Model, Segmenting
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.result import Result
from textdiffseg.tasks.manifest import Manifest, Request, Sampled, read_manifest, versions
from textdiffseg.text.case_texts import CaseText


@dataclass(frozen=True)
class PredictionRun:
    """The settings that are the same for all scans of a run."""

    model: Model
    segmenting: Segmenting
    texts: Mapping[str, CaseText]  # by case, of the cases that have one
    out: Path
    file_name: str | None  # of the segmentation, if one scan goes to one file
    overwrite: bool
    picture: bool = False  # draw a picture beside each mask


def mask_path(run: PredictionRun, case: str, paths: tuple[Path, ...]) -> Path:
    """The path of a scan's mask. It has the format of the scan, if that can be written."""
    ending = split_ending(paths[0].name)[1] if paths[0].is_file() else ""
    return run.out / (run.file_name or f"{case}{written_ending(ending)}")


def seems_complete(run: PredictionRun, case: str, paths: tuple[Path, ...]) -> bool:
    """Whether a scan is complete by its manifest. Neither the scan nor the outputs are read."""
    mask = mask_path(run, case, paths)
    before = None if run.overwrite else read_manifest(manifest_path(mask))
    if before is None or not before.outputs or not mask.is_file():
        return False
    return before.request == request_of(run, case, before.request.inputs)


def manifest_of(run: PredictionRun, request: Request, result: Result, written: tuple[str, ...]) -> Manifest:
    """The manifest of a predicted scan. `written`: the names of its files."""
    return Manifest(
        request=request,
        outputs={one: hash_files([run.out / one]) for one in written},
        labels=dict(zip(result.names, result.values, strict=True)),
        means=_means(run.segmenting.selection, run.segmenting.plan),
        volumes=tuple(result.volumes.values()),
        expected_dice=result.expected_dice,
        notes=result.notes,
        scan_notes=result.scan_notes,
        versions=versions(),
        device=run.model.device,
        threads=torch.get_num_threads(),
    )


def _means(selection: Selection, plan: Plan) -> dict[str, str]:
    """The model's label for each output name that differs from it. Phrases that were forced have none."""
    labels = {number: label.name for number, label in enumerate(plan.labels, start=1)}
    pairs = zip(selection.names, selection.numbers, strict=True)
    return {name: labels[number] for name, number in pairs if labels.get(number, name) != name}


def request_of(run: PredictionRun, case: str, inputs: dict[str, str]) -> Request:
    """The request for a scan. `inputs`: the hashes of its files, by name."""
    segmenting, ensemble = run.segmenting, run.model.ensemble
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
        text=run.texts[case].entry.hash if case in run.texts else None,
        probabilities=segmenting.probabilities,
        uncertainty=samples is not None,
        sampled=sampled,
    )


def check_channels(found: int, plan: Plan, paths: tuple[Path, ...]) -> None:
    """Raise `UserError` if a scan has more or fewer channels than the model reads."""
    expected = len(plan.channels)
    if found == expected:
        return
    names = ", ".join(channel.name for channel in plan.channels)
    raise UserError(
        f"{', '.join(str(path) for path in paths)}: found {found} channels, the model expects {expected} ({names}). "
        "Give one file per channel, named CASE_0000, CASE_0001, ..., or one file with all channels. If the files are "
        "separate scans, give them names that do not end like this."
    )


def refuse_files_of_others(
    run: PredictionRun, output: Path, manifest: Path, paths: tuple[Path, ...], before: Manifest | None
) -> None:
    """Raise `UserError` if writing would replace the scan itself, or a file that no prediction wrote."""
    if output.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{output} is the scan itself. Choose another output folder.")
    if before is not None or run.overwrite:
        return
    if output.exists():
        raise UserError(
            f"{output} exists and was not made by tds_predict (no manifest beside it). "
            "Choose another output folder, or --overwrite."
        )
    if manifest.exists():
        raise UserError(f"{manifest} is not a manifest of tds_predict. Choose another output folder, or --overwrite.")
