"""Predict a folder of scans: each read, segmented, written, and noted in a manifest beside it.

`OUT/<case><ending>` is the segmentation, with the geometry of the scan and the label values of the training data,
and `OUT/<case>.json` its manifest, written before (with no outputs yet) and after. A file without a manifest was not
made here and is left alone. Maps go to `OUT/probabilities/` and `OUT/uncertainty/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from plans.dataset import is_plain_name
from plans.errors import UserError
from plans.layout import Checkpoint, split_ending, written_ending
from plans.plan import Plan
from plans.texts import read_texts
from textdiffseg.files import hash_files, write_record
from textdiffseg.folds.ensemble import find_model
from textdiffseg.inference.model import Model, Segmenting, SegmentOptions, follow
from textdiffseg.inference.prompting import Selection
from textdiffseg.inference.result import Result
from textdiffseg.pictures import require_matplotlib
from textdiffseg.progress import Cancel, OnProgress, Report, never, silent
from textdiffseg.tasks.announce import announce, report_texts
from textdiffseg.tasks.found import empty_cases, labels_not_found
from textdiffseg.tasks.manifest import Manifest, Request, Sampled, hash_inputs, is_output, read_manifest, versions
from textdiffseg.tasks.picturing import draw, draw_from_files, drop_picture, is_drawn, refuse_picture_of_others
from textdiffseg.tasks.scan_progress import RunProgress
from textdiffseg.text.case_texts import CaseText

Scans = Mapping[str, tuple[Path, ...]]
"""The files of each scan, one a channel or all channels in one, by case."""


@dataclass
class Outcome:
    """How a run went, case by case."""

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # complete already
    failures: list[str] = field(default_factory=list)  # lines
    empty: list[str] = field(default_factory=list)  # of these cases, those whose mask is empty
    not_found: tuple[str, ...] = ()  # labels that were queried and found in no case
    notes: list[str] = field(default_factory=list)  # what has to be known of single scans, lines


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


def predict(
    source: str | Path,
    out: str | Path,
    *,
    model: Model | str | Path | None = None,
    dataset: str | None = None,
    root: str | Path = ".",
    folds: list[str] | None = None,
    checkpoint: Checkpoint = "best",
    device: str | None = None,
    include_unfinished: bool = False,
    options: SegmentOptions | None = None,
    texts: str | Path | None = None,
    overwrite: bool = False,
    preset: str | None = None,
    picture: bool = False,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> Outcome:
    """Segment a folder of scans, or one scan, into the folder `out`. A bad scan is noted and the others go on.

    Args:
        model: a loaded model, or its folder; None: that of `dataset`, else the only one below `root`.
        include_unfinished: use folds that are in training or were interrupted, too.
        texts: a folder of words about single cases, CASE.txt each.
        overwrite: redo what is complete, replace files that were not made here.
        preset: whose model of the data set; None: the only one that is trained.
        picture: draw a PNG beside each mask, with three planes through its middle.

    Returns what was written, what was complete already, and a line for each failure.
    """
    if not isinstance(model, Model):
        folder = find_model(Path(root), dataset, None if model is None else Path(model), preset)
        model = Model.load(
            folder, folds=folds, checkpoint=checkpoint, device=device, include_unfinished=include_unfinished
        )
    if picture:
        require_matplotlib()
    scans = find_scans(Path(source), len(model.plan.channels))
    segmenting = model.prepare(options or SegmentOptions())
    words, strays = read_texts(Path(texts), scans) if texts else ({}, 0)
    known = model.texts(words)
    place, file_name = output_place(Path(out), len(scans))
    batch = PredictionRun(model, segmenting, known, place, file_name, overwrite, picture)
    announce(model, segmenting, scans, report)
    if texts:
        report_texts({case: one.entry.length for case, one in known.items()}, len(scans), strays, Path(texts), report)
    return predict_scans(batch, scans, progress, cancel, report)


def find_scans(source: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """The scans of a folder, or the one scan that a file belongs to, by case.

    A file `CASE_0000.nii.gz` brings its other channels along where the model has several.
    """
    from textdiffseg.imaging.sources.scans import list_scans

    if source.is_file() and channels > 1:
        siblings = list_scans(source.parent, is_output)
        return {case: paths for case, paths in siblings.items() if source in paths} or list_scans(source)
    return list_scans(source, is_output)


def output_place(out: Path, scans: int) -> tuple[Path, str | None]:
    """The output folder; where one scan goes to a name like `x.nii.gz`, its folder and that name."""
    name = None
    ending = split_ending(out.name)[1]
    if scans == 1 and not out.is_dir() and ending:
        if written_ending(ending) != ending:
            raise UserError(f"{out}: {ending} is not written. Choose a name with {written_ending(ending)}.")
        out, name = out.parent, out.name
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the segmentations.")
    return out, name


def predict_scans(
    batch: PredictionRun,
    scans: Scans,
    progress: OnProgress = silent,
    cancel: Cancel = never,
    report: Report = silent,
) -> Outcome:
    """Predict every scan; a bad one is noted and the others go on."""
    outcome, manifests = Outcome(), dict[str, Manifest]()
    complete = {case for case, paths in scans.items() if _seems_complete(batch, case, paths)}
    following = RunProgress(batch.segmenting, scans, complete, progress, report)
    for case, paths in scans.items():
        try:
            fresh = predict_scan(batch, case, paths, following.of(case), cancel, outcome.notes)
        except UserError as error:
            outcome.failures += error.naming(case)
            continue
        except Exception as error:
            error.add_note(f"while predicting case {case} ({', '.join(map(str, paths))})")
            raise
        (outcome.written if fresh else outcome.skipped).append(case)
        if (manifest := read_manifest(_manifest_path(_mask_path(batch, case, paths)))) is not None:
            manifests[case] = manifest
            if empty_cases({case: manifest}):
                report(f"{case}: the mask is empty: none of {', '.join(manifest.labels)} was found.")
    outcome.empty, outcome.not_found = empty_cases(manifests), labels_not_found(manifests)
    return outcome


def _mask_path(batch: PredictionRun, case: str, paths: tuple[Path, ...]) -> Path:
    ending = split_ending(paths[0].name)[1] if paths[0].is_file() else ""
    return batch.out / (batch.file_name or f"{case}{written_ending(ending)}")


def _manifest_path(mask: Path) -> Path:
    return mask.with_name(f"{split_ending(mask.name)[0]}.json")


def _seems_complete(batch: PredictionRun, case: str, paths: tuple[Path, ...]) -> bool:
    """Whether the manifest says so. Neither scan nor outputs are read."""
    mask = _mask_path(batch, case, paths)
    before = None if batch.overwrite else read_manifest(_manifest_path(mask))
    if before is None or not before.outputs or not mask.is_file():
        return False
    return before.request == _request(batch, case, before.request.inputs)


def predict_scan(
    batch: PredictionRun,
    case: str,
    paths: tuple[Path, ...],
    progress: OnProgress = silent,
    cancel: Cancel = never,
    notes: list[str] | None = None,
) -> bool:
    """Predict one scan and write its files; False if they are complete already. Raises `UserError` for a bad scan.

    `notes` gets lines on what has to be known of the scan.
    """
    from textdiffseg.imaging.sources.files import read_volume

    if not is_plain_name(case):
        raise UserError(f"{paths[0]}: expected a name of printable characters in UTF-8, 200 bytes at most. Rename it.")
    segmenting, mask = batch.segmenting, _mask_path(batch, case, paths)
    if len(paths) > 1:  # a single file may hold all channels, which only reading it can tell
        _check_channels(len(paths), segmenting.plan, paths)
    request = _request(batch, case, hash_inputs(paths))
    manifest = _manifest_path(mask)
    before = read_manifest(manifest)
    if batch.picture:
        refuse_picture_of_others(mask, before, batch.overwrite)
    if not batch.overwrite and before is not None and before.is_complete(request, batch.out):
        if batch.picture and not is_drawn(mask, before):
            draw_from_files(mask, paths, before, segmenting.hounsfield)
        return False
    _refuse_files_of_others(batch, mask, manifest, paths, before)
    drop_picture(mask, before)
    write_record(manifest, Manifest(request=request))
    try:
        volume = read_volume(paths)
        _check_channels(len(volume.array), segmenting.plan, paths)
        result = segmenting.run(volume, batch.texts.get(case), follow(progress, cancel, case))
    except BaseException:
        if before is None:  # nothing of this scan was there
            manifest.unlink(missing_ok=True)
        raise
    made = _manifest(batch, request, result, result.write(batch.out, mask.name))
    write_record(manifest, made)
    if batch.picture:
        draw(mask, volume, result.labels, made, segmenting.hounsfield)
    if notes is not None:
        notes += [f"{paths[0]}: {note}" for note in result.scan_notes]
    return True


def _manifest(batch: PredictionRun, request: Request, result: Result, written: tuple[str, ...]) -> Manifest:
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


def _request(batch: PredictionRun, case: str, inputs: dict[str, str]) -> Request:
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


def _check_channels(found: int, plan: Plan, paths: tuple[Path, ...]) -> None:
    expected = len(plan.channels)
    if found == expected:
        return
    names = ", ".join(channel.name for channel in plan.channels)
    raise UserError(
        f"{', '.join(str(path) for path in paths)}: found {found} channels, the model expects {expected} ({names}). "
        "Give one file a channel, named CASE_0000, CASE_0001, ..., or one file with all of them. Scans of their own "
        "need names that do not end so."
    )


def _refuse_files_of_others(
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
