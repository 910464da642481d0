"""Scans in, files out: reading, predicting, restoring, writing.

`OUT/<case><ending>` is the segmentation, with the geometry of the scan and the label values of the training data,
and `OUT/<case>.json` its manifest, written before (with no outputs yet) and after. A file without a manifest was not
made here and is left alone. Maps go to `OUT/probabilities/` and `OUT/uncertainty/`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from plans.errors import UserError
from plans.layout import FILE_ENDINGS, split_ending
from plans.plan import Plan
from textdiffseg.files import hash_files, write_record
from textdiffseg.inference.manifest import Manifest, Request, Sampled, hash_inputs, read_manifest, versions
from textdiffseg.inference.prompting import Asked, caution
from textdiffseg.inference.scan import Calibrated, Found, Progress, examine, volumes_of
from textdiffseg.preprocessing.case import Trail, preprocess_image, restore_map
from textdiffseg.text.case_texts import CaseText

DICOM_ENDING = ".nii.gz"  # of what is predicted from a folder of slices


@dataclass(frozen=True)
class Job:
    """Everything that is the same for all scans of a run."""

    masks: Calibrated  # of masks and probabilities
    asked: Asked
    model: str  # hash of the ensemble
    folds: tuple[str, ...]
    checkpoint: str
    out: Path
    probabilities: bool = False
    uncertainty: Calibrated | None = None  # `masks` itself where one setting serves both; None: not asked for
    overwrite: bool = False
    texts: Mapping[str, CaseText] = field(default_factory=dict)  # of the cases that have one, in the model's space
    file_name: str | None = None  # of the segmentation, where one scan goes to one file

    @property
    def plan(self) -> Plan:
        """The model's plan."""
        return self.masks.predictor.plan

    @property
    def samples_apart(self) -> bool:
        """Whether uncertainty takes predictions of its own."""
        return self.uncertainty is not None and self.uncertainty is not self.masks


@dataclass
class Outcome:
    """How a run went, case by case."""

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # complete already
    failures: list[str] = field(default_factory=list)  # lines


def find_scans(source: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """The scans of a folder, or the one scan that a file belongs to, by case.

    A file `CASE_0000.nii.gz` brings its other channels along where the model has several.
    """
    from textdiffseg.imaging.sources.scans import list_scans

    source = Path(source)
    if source.is_file() and channels > 1:
        siblings = list_scans(source.parent)
        return {case: paths for case, paths in siblings.items() if source in paths} or list_scans(source)
    return list_scans(source)


def output_place(out: Path, scans: int) -> tuple[Path, str | None]:
    """The output folder; where one scan goes to a name like `x.nii.gz`, its folder and that name."""
    name = None
    if scans == 1 and not out.is_dir() and out.name.endswith(FILE_ENDINGS):
        out, name = out.parent, out.name
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the segmentations.")
    return out, name


def predict_scans(
    job: Job, scans: Mapping[str, tuple[Path, ...]], progress: Callable[[str, int, int], None] | None = None
) -> Outcome:
    """Predict every scan; a bad one is noted and the others go on. `progress` is told (case, windows done, of)."""
    outcome = Outcome()
    for case, paths in scans.items():
        inner = None if progress is None else lambda done, total, case=case: progress(case, done, total)
        try:
            fresh = predict_scan(job, case, paths, inner)
        except UserError as error:
            outcome.failures += error.naming(case)
            continue
        except Exception as error:
            error.add_note(f"while predicting case {case} ({', '.join(map(str, paths))})")
            raise
        (outcome.written if fresh else outcome.skipped).append(case)
    return outcome


def predict_scan(
    job: Job, case: str, paths: tuple[Path, ...], progress: Callable[[int, int], None] | None = None
) -> bool:
    """Predict one scan and write its files; False if they are complete already. Raises `UserError` for a bad scan."""
    ending = split_ending(paths[0].name)[1] if paths[0].is_file() else ""
    name = job.file_name or f"{case}{ending or DICOM_ENDING}"
    stem, _ = split_ending(name)
    if len(paths) > 1:  # a single file may hold all channels, which only reading it can tell
        _check_channels(len(paths), job.plan, paths)
    request = _request(job, case, paths)
    output, manifest_path = job.out / name, job.out / f"{stem}.json"
    before = read_manifest(manifest_path)
    if not job.overwrite and before is not None and before.is_complete(request, job.out):
        return False
    _check_output(output, paths, job.overwrite or before is not None)
    if manifest_path.exists() and before is None and not job.overwrite:
        raise UserError(
            f"{manifest_path} is no manifest of this tds_predict. Choose another output folder, or --overwrite."
        )
    write_record(manifest_path, Manifest(request=request))

    try:
        found, trail = _predict(job, case, paths, progress)
    except BaseException:
        if before is None:  # nothing of this scan was there
            manifest_path.unlink(missing_ok=True)
        raise
    maps = dict(_maps(job, found, stem))
    from textdiffseg.imaging.writers.files import write_labels, write_volume

    write_labels(output, np.array([0, *job.asked.values])[found.slots], trail.geometry)
    for place, array in maps.items():
        write_volume(job.out / f"{place}{name.removeprefix(stem)}", restore_map(array.numpy(), trail), trail.geometry)
    written = [name, *(f"{place}{name.removeprefix(stem)}" for place in maps)]
    manifest = Manifest(
        request=request,
        outputs={one: hash_files([job.out / one]) for one in written},
        labels=dict(zip(job.asked.names, job.asked.values, strict=True)),
        means=_means(job.asked, job.plan),
        volumes=tuple(volumes_of(found, job.asked, job.plan, trail)),
        notes=tuple(note for note in (job.plan.text.note, caution(job.plan, job.asked)) if note),
        versions=versions(),
        device=str(job.masks.predictor.device),
        threads=torch.get_num_threads(),
    )
    write_record(manifest_path, manifest)
    return True


def _means(asked: Asked, plan: Plan) -> dict[str, str]:
    """The label behind each name that is not its own; words that ran by force have none."""
    labels = {number: label.name for number, label in enumerate(plan.labels, start=1)}
    pairs = zip(asked.names, asked.numbers, strict=True)
    return {name: labels[number] for name, number in pairs if labels.get(number, name) != name}


def _request(job: Job, case: str, paths: tuple[Path, ...]) -> Request:
    return Request(
        case=case,
        inputs=hash_inputs(paths),
        model=job.model,
        folds=job.folds,
        checkpoint=job.checkpoint,
        settings=job.masks.predictor.settings,
        calibration=job.masks.calibration,
        prompts=job.asked.prompts,
        forced=job.asked.forced,
        answers=job.asked.answers,
        text=job.texts[case].entry.hash if case in job.texts else None,
        probabilities=job.probabilities,
        uncertainty=job.uncertainty is not None,
        sampled=_sampled(job.uncertainty) if job.samples_apart else None,
    )


def _sampled(samples: Calibrated) -> Sampled:
    return Sampled(settings=samples.predictor.settings, calibration=samples.calibration)


def _predict(job: Job, case: str, paths: tuple[Path, ...], progress: Progress | None) -> tuple[Found, Trail]:
    """The scan itself is let go of before the network runs."""
    from textdiffseg.imaging.sources.files import read_volume

    plan = job.plan
    volume = read_volume(paths)
    _check_channels(len(volume.array), plan, paths)
    image, trail = preprocess_image(volume, plan)
    del volume
    asked = job.asked
    if case in job.texts:
        asked = replace(asked, queries=asked.queries.with_tokens([job.texts[case].tokens]))
    return examine(torch.from_numpy(image), trail, asked, job.masks, job.uncertainty, progress), trail


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


def _check_output(output: Path, paths: tuple[Path, ...], ours: bool) -> None:
    if output.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{output} is the scan itself. Choose another output folder.")
    if output.exists() and not ours:
        raise UserError(
            f"{output} exists and was not made by tds_predict (no manifest beside it). "
            "Choose another output folder, or --overwrite."
        )


def _maps(job: Job, found: Found, stem: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The maps asked for on the plan's grid, by their path without an ending."""
    if job.probabilities:
        for slot, name in enumerate(job.asked.names, start=1):
            words = re.sub(r"[^\w-]+", "_", name).strip("_")
            yield f"probabilities/{stem}_{slot}_{words}", found.probabilities[slot]
    if found.spread is not None:
        for name, array in found.spread.maps.items():
            yield f"uncertainty/{stem}_{name}", array
