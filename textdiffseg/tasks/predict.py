"""Predict the scans of a folder, and write masks and manifests.

`OUT/<case><ending>` is the mask, with the geometry of the scan and the label values of the training data.
`OUT/<case>.json` is its manifest. It is written before the other files (without outputs) and after them. A file without
a manifest is not replaced. Alternatives lie beside the mask. Maps are written to `OUT/probabilities/` and
`OUT/uncertainty/`, other forms of a mask to `OUT/separate/`, `OUT/dicom-seg/` and `OUT/rtstruct/`. `OUT/volumes.csv`
holds the volumes of all cases.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from shutil import rmtree
from threading import Event

from plans.errors import UserError, listed, merged
from plans.file_names import is_image_name, manifest_path, split_ending, written_ending
from plans.layout import EXTRA_FOLDERS, Checkpoint, Conversion
from plans.plan import Plan
from plans.raw.case_list import CaseList
from plans.raw.dataset import is_plain_name
from textdiffseg.ahead import ahead
from textdiffseg.arguments import path_of, several
from textdiffseg.files import check_folder, temporary_folder
from textdiffseg.folds.best import why_outdated
from textdiffseg.folds.find import find_models
from textdiffseg.inference.memory import Kept
from textdiffseg.inference.model import Model
from textdiffseg.inference.openvino import Backend
from textdiffseg.inference.segmenting import SegmentOptions
from textdiffseg.leftovers import sweep
from textdiffseg.progress import Cancel, OnProgress, Report, never, silent
from textdiffseg.tasks import stages
from textdiffseg.tasks.announce import announce
from textdiffseg.tasks.derived import require_extras
from textdiffseg.tasks.listed import find_case_texts, refuse_replaced_scans, report_case_texts
from textdiffseg.tasks.manifest import Manifest, is_output, read_manifest
from textdiffseg.tasks.one_scan import PredictionRun, refuse_alternatives_as_scans, seems_complete
from textdiffseg.tasks.outcome import Outcome, cases_to_check, empty_cases, labels_not_found
from textdiffseg.tasks.scan_progress import RunProgress
from textdiffseg.tasks.volume_table import add_table, refuse_table_of_others

Scans = Mapping[str, tuple[Path, ...]]
"""The files of each scan, by case: one per channel, or one with all channels."""


def predict(
    source: str | Path | CaseList,
    out: str | Path,
    *,
    model: Model | str | Path | Sequence[str | Path] | None = None,
    dataset: str | None = None,
    root: str | Path = ".",
    folds: Sequence[str | int] | None = None,
    checkpoint: Checkpoint = "best",
    device: str | None = None,
    include_unfinished: bool = False,
    backend: Backend = "torch",
    options: SegmentOptions | None = None,
    texts: str | Path | None = None,
    overwrite: bool = False,
    preset: str | None = None,
    picture: bool = False,
    series: str | None = None,
    conversions: Conversion | Sequence[Conversion] = (),
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> Outcome:
    """The outcome of predicting scans into the folder `out`. If a scan fails, the others are still predicted.

    Args:
        source: a folder of scans, one scan, or a list of cases.
        model, preset: a loaded model, its folder, or several folders; None: by `dataset` and `preset`, or the only one.
        folds, checkpoint, device, include_unfinished, backend: those of `Model.load`, for a model that is loaded here.
        texts: a folder with texts of cases, one file CASE.txt per case.
        overwrite: predict complete cases again, and replace files that no prediction wrote.
        series: UID of the DICOM series to predict; None: the largest one of each folder.
        conversions: other forms of each mask: "separate" (one file per label), "dicom-seg", "rtstruct".
    """
    conversions = several(conversions)
    require_extras(picture, conversions)
    if not isinstance(model, Model):
        load = partial(Model.load, folds=folds, checkpoint=checkpoint, device=device, backend=backend)
        model = load(_folders(model, path_of(root), dataset, preset, report), include_unfinished=include_unfinished)
    options, model = options or SegmentOptions(), model.serving(options.effort if options else "chosen")
    scans = find_scans(source, len(model.plan.channels), series, model.plan.optional_channels)
    missing = missing_channels(source, scans, model.plan)
    words, strays = find_case_texts(source, texts, scans)
    prepared, encoded = model.prepare(options), model.texts(words, options.text_encoder)
    place = output_place(path_of(out), len(scans))
    run = PredictionRun(model, prepared, encoded, *place, overwrite, picture, conversions, missing)
    announce(model, prepared, scans, report, Kept(scan=picture))
    report_unsearched(source, scans, run.out, report)
    report_case_texts(run, len(scans), strays, texts, report)
    return predict_scans(run, scans, progress, cancel, report)


def _folders(
    model: str | Path | Sequence[str | Path] | None, root: Path, dataset: str | None, preset: str | None, report: Report
) -> tuple[Path, ...]:
    """The folders of the models to average: the given ones, or those that `find_models` chooses."""
    given = tuple(map(path_of, () if model is None else several(model)))
    if given[1:]:
        return given
    found = find_models(root, dataset, given[0] if given else None, preset)
    outdated = None if preset or given == found else why_outdated(found[0].parent)
    if outdated is not None:
        report(f"Note: {outdated}")
    return found


def find_scans(
    source: str | Path | CaseList, channels: int, series: str | None = None, optional: Collection[int] = ()
) -> dict[str, tuple[Path, ...]]:
    """The scans of a folder or a list, or the one scan of a file, by case. Each has a file per channel that it has.

    If the model has several channels, the other channels of a file `CASE_0000.nii.gz` are added. `series` is the
    UID of a DICOM series; None: the largest one of each folder. `optional` are channels that a scan may lack.
    """
    from textdiffseg.imaging.sources.scans import list_scans, scan_of_channel

    if isinstance(source, CaseList):
        if series is not None:
            raise UserError("--series: leave it out with --list, and name a slice of that series in the list.")
        source.refuse_missing(optional)
        return dict(source.scans)
    source = path_of(source)
    if source.is_file() and channels > 1 and series is None:
        return scan_of_channel(source, optional) or list_scans(source)
    return list_scans(source, is_output, series, optional)


def missing_channels(source: str | Path | CaseList, scans: Scans, plan: Plan) -> dict[str, tuple[int, ...]]:
    """The numbers of the channels that cases lack, by case: empty in the list, or without a file of their number."""
    from textdiffseg.imaging.sources.scans import channels_without_file

    if isinstance(source, CaseList):
        return dict(source.missing)
    if not plan.optional_channels:
        return {}
    found = {case: channels_without_file(case, paths, len(plan.channels)) for case, paths in scans.items()}
    return {case: missing for case, missing in found.items() if missing}


def output_place(out: Path, scans: int) -> tuple[Path, str | None]:
    """The output folder, which is created, and the file name if one scan goes to a file like `x.nii.gz`.

    Raises `UserError` for a file name if there are several scans, or if masks are not written in its format.
    """
    name = None
    ending = split_ending(out.name)[1]
    if not out.is_dir() and is_image_name(out.name):
        if scans != 1:
            raise UserError(f"{out} is the name of one file, but {scans} scans give {scans} masks. Give a folder.")
        if written_ending(ending) != ending:
            raise UserError(
                f"{out}: masks are not written as {ending or out.suffix}. Choose a name with {written_ending(ending)}."
            )
        out, name = out.parent, out.name
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the masks.")
    try:
        check_folder(out)
    except OSError as error:
        raise UserError(f"{out} cannot be made or written ({error.strerror}). Choose another folder.") from None
    sweep([out, *(out / name for name in EXTRA_FOLDERS)])
    return out, name


def report_unsearched(source: str | Path | CaseList, scans: Scans, out: Path, report: Report) -> None:
    """Report the folders in `source` that hold scans of their own, which are not predicted.

    A DICOM series of which several scans hold different slices is reported, too. So are slices beside a folder that is
    given by itself.
    """
    from textdiffseg.imaging.sources.dicom.parts import beside_with_slices_of, lines_on_split_series
    from textdiffseg.imaging.sources.scans import unsearched_folders

    searched = {path for paths in scans.values() for path in paths}
    beside = set[Path]() if isinstance(source, CaseList) else {*beside_with_slices_of(path_of(source))}
    for line in lines_on_split_series(sorted(searched | beside)):
        report(f"Note: {line}")
    if isinstance(source, CaseList):
        return
    source = path_of(source)
    made = {place.resolve() for place in (out, *(out / name for name in EXTRA_FOLDERS))}
    if found := [path.name for path in unsearched_folders(source, searched | made, is_output)]:
        report(f"Note: the scans in these folders of {source} are not predicted: {listed(found)}. Give each with -i.")


def predict_scans(
    run: PredictionRun,
    scans: Scans,
    progress: OnProgress = silent,
    cancel: Cancel = never,
    report: Report = silent,
) -> Outcome:
    """The outcome of predicting every scan. A scan that fails is noted, and the others are still predicted.

    On a GPU, the next scan is read while one is segmented, and the last one is written.
    """
    refuse_alternatives_as_scans(run, scans)
    refuse_replaced_scans(run, scans)
    refuse_table_of_others(run)
    outcome, manifests, faults = Outcome(), dict[str, Manifest](), list[tuple[str, str]]()
    for work in _works(run, scans, progress, cancel, report):
        if work.fault is not None:
            faults += [(work.case, line) for line in work.fault.naming(work.case)]
            continue
        (outcome.skipped if work.complete else outcome.written).append(work.case)
        outcome.notes += [f"case {work.case}: {note}" for note in work.notes]
        if not work.corrected and (manifest := read_manifest(manifest_path(work.mask))) is not None:
            manifests[work.case] = manifest
            if empty_cases({work.case: manifest}):
                report(f"{work.case}: the mask is empty: none of {', '.join(manifest.labels)} was found.")
            elif manifest.expected_dice is not None and manifest.expected_dice.needs_check:
                report(f"{work.case}: {manifest.expected_dice.note}")
    outcome.failures += merged(faults)
    outcome.empty, outcome.not_found = empty_cases(manifests), labels_not_found(manifests)
    outcome.to_check = cases_to_check(manifests)
    add_table(run, outcome)
    return outcome


def _works(
    run: PredictionRun, scans: Scans, progress: OnProgress, cancel: Cancel, report: Report
) -> Iterator[stages.Work]:
    """The works of all scans, after their last stage."""
    complete = {case for case, paths in scans.items() if seems_complete(run, case, paths)}
    following = RunProgress(run.prepared, scans, complete, progress, report)
    overlapping, stopped = run.model.device != "cpu", Event()
    run.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(run.out / "maps")) if run.prepared.maps else None

        def segment(work: stages.Work) -> stages.Work:
            return stages.segment(run, work, following.of(work.case), lambda: stopped.is_set() or cancel(), folder)

        started = (stages.start(run, case, paths) for case, paths in scans.items())
        each = partial(stages.each, device=run.model.device)
        works = each(partial(stages.read, run), started)
        for stage in (segment, partial(stages.write, run)):
            works = each(stage, stack.enter_context(closing(ahead(works, overlapping, stopped.set))))
        for work in works:
            yield work
            if folder is not None and is_plain_name(work.case):  # no other case has a folder for its maps
                rmtree(folder / work.case, ignore_errors=True)
