"""The settings of a run over scans, and for one scan its paths, its request and its manifest."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from plans.errors import UserError, merged
from plans.file_names import alternative_file, alternative_of, manifest_path, split_ending, written_ending
from plans.layout import MAPS, Conversion
from plans.plan import Plan
from textdiffseg.files import hash_files
from textdiffseg.inference.model import Model
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.region import MARGIN
from textdiffseg.inference.result import Result
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.tasks.manifest import (
    GuidedBy,
    Manifest,
    Request,
    Sampled,
    WrittenAlternative,
    read_manifest,
    unlisted,
    versions,
)
from textdiffseg.text.case_texts import CaseText


@dataclass(frozen=True)
class PredictionRun:
    """The settings that are the same for all scans of a run."""

    model: Model
    prepared: PreparedModel
    texts: Mapping[str, CaseText]  # by case, of the cases that have one
    out: Path
    file_name: str | None  # of the segmentation, if one scan goes to one file
    overwrite: bool
    picture: bool = False  # draw a picture beside each mask
    conversions: tuple[Conversion, ...] = ()  # other forms of each mask
    missing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by case, the channels that it lacks


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
        outputs={file: hash_files([run.out / file]) for file in written},
        labels=dict(zip(result.names, result.values, strict=True)),
        means=_means(run.prepared.selection, run.prepared.plan),
        parts=result.structures if any(len(values) > 1 for values in result.structures.values()) else {},
        volumes=tuple(result.volumes.values()),
        expected_dice=result.expected_dice,
        alternatives=tuple(
            WrittenAlternative(file=file, share=one.share)
            for file, one in zip(written[1:], result.alternatives, strict=False)  # maps follow
        ),
        notes=result.notes,
        scan_notes=result.scan_notes,
        versions=versions(run.model.backend),
        device=run.model.device,
        backend=run.model.backend,
        threads=torch.get_num_threads(),
    )


def _means(selection: Selection, plan: Plan) -> dict[str, str]:
    """The model's label for each output name that differs from it. Phrases that were forced have none."""
    labels = {number: label.name for number, label in enumerate(plan.labels, start=1)}
    pairs = zip(selection.names, selection.numbers, strict=True)
    return {name: labels[number] for name, number in pairs if labels.get(number, name) != name}


def request_of(run: PredictionRun, case: str, inputs: dict[str, str]) -> Request:
    """The request for a scan. `inputs`: the hashes of its files, by name."""
    prepared, ensemble, guide = run.prepared, run.model.ensemble, _guided_by(run)
    selection, mask, uncertainty = prepared.selection, prepared.mask_predictor, prepared.uncertainty_predictor
    sampled = None
    if uncertainty is not None:
        sampled = Sampled(settings=uncertainty.predictor.settings, calibration=uncertainty.calibration)
    return Request(
        case=case,
        inputs=inputs,
        model=ensemble.hash,
        folds=ensemble.folds,
        checkpoint=ensemble.checkpoint,
        settings=mask.predictor.settings,
        calibration=mask.calibration,
        prompts=selection.prompts,
        forced=selection.forced,
        answers=selection.user_labels,
        text=run.texts[case].entry.hash if case in run.texts else None,
        probabilities=prepared.probabilities,
        uncertainty=prepared.uncertainty,
        sampled=sampled,
        alternatives=alternatives_of(run),
        drawn=None if prepared.alternatives is None else prepared.alternatives.predictor.settings,
        resolutions=(*(() if guide is None else ("low",)), prepared.plan.resolution),
        postprocessing=dict(mask.postprocessing),
        guide=guide,
    )


def _guided_by(run: PredictionRun) -> GuidedBy | None:
    """The guide of a run; None if it has none."""
    guide, low = run.prepared.guide, run.model.low
    if guide is None or low is None:
        return None
    ensemble, settings = low.ensemble, guide.mask_predictor.predictor.settings
    return GuidedBy(model=ensemble.hash, folds=ensemble.folds, settings=settings, margin=MARGIN)


def check_channels(found: int, plan: Plan, paths: tuple[Path, ...]) -> None:
    """Raise `UserError` if a scan has more or fewer channels than the model reads."""
    expected = len(plan.channels)
    if found == expected:
        return
    names = ", ".join(f"{channel.name} [optional]" if channel.optional else channel.name for channel in plan.channels)
    raise UserError(
        f"{', '.join(str(path) for path in paths)}: found {found} channels, the model expects {expected} ({names}). "
        "Give one file per channel, named CASE_0000, CASE_0001, ..., or one file with all channels. If the files are "
        "separate scans, give them names that do not end like this."
    )


def alternatives_of(run: PredictionRun) -> int:
    """The number of alternatives that were requested."""
    return 0 if run.prepared.alternatives is None else run.prepared.alternatives.count


def refuse_alternatives_as_scans(run: PredictionRun, cases: Collection[str]) -> None:
    """Raise `UserError` if the mask of a scan would replace an alternative of another scan."""
    faults = [
        (case, f"scan {case} has the name of an alternative of scan {mask}. Rename it, or predict it elsewhere.")
        for case in cases
        for mask, number in [alternative_of(case)]
        if mask in cases and number is not None and 1 <= number <= alternatives_of(run)
    ]
    if faults:
        raise UserError(*merged(faults))


def stale_masks(run: PredictionRun, mask: Path, before: Manifest | None) -> tuple[str, ...]:
    """The names of an earlier mask of the case in another format. A user who names the file may want several."""
    if before is None or run.file_name is not None:
        return ()
    stem = split_ending(mask.name)[0]
    return tuple(name for name in before.outputs if split_ending(name)[0] == stem and name != mask.name)


def drop_outputs(run: PredictionRun, mask: Path, before: Manifest | None) -> None:
    """Delete the files of an earlier mask before `mask` is written. Files that changed are kept.

    These are alternatives, maps, and the mask itself if the scan had another format.
    """
    if before is None:
        return
    stale = stale_masks(run, mask, before)
    folder, maps = run.out.resolve(), {(run.out / kind).resolve() for kind in MAPS}
    for file in before.outputs:
        path, number = run.out / file, alternative_of(split_ending(file)[0])[1]
        allowed = maps if number is None and file not in stale else {folder}  # a manifest may come from anyone
        if path.resolve().parent in allowed and before.is_unchanged(path, file):
            path.unlink()


def refuse_files_of_others(
    run: PredictionRun, output: Path, manifest: Path, paths: tuple[Path, ...], before: Manifest | None
) -> None:
    """Raise `UserError` if writing would replace the scan itself, or a file that no prediction wrote."""
    if output.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{output} is the scan itself. Choose another output folder.")
    if run.overwrite or (before is not None and not before.outputs):  # it was interrupted, so the files are its own
        return
    known = {} if before is None else before.outputs
    numbers = range(1, 1 + alternatives_of(run))
    alternatives = [output.with_name(alternative_file(*split_ending(output.name), number)) for number in numbers]
    for path in (output, *alternatives, *(output.with_name(name) for name in stale_masks(run, output, before))):
        if path.exists() and path.name not in known:
            raise UserError(
                f"{path} exists and was not made by tds_predict ({unlisted(manifest)}). "
                "Choose another output folder, or --overwrite."
            )
        if before is not None and before.is_corrected(path):
            raise UserError(
                f"{path} was changed after it was predicted, perhaps by hand. Move it away, or replace it with "
                "--overwrite."
            )
    if before is not None:
        return
    if manifest.exists():
        raise UserError(f"{manifest} is not a manifest of tds_predict. Choose another output folder, or --overwrite.")
