"""The sections of a report on segmented scans, from the manifests beside the masks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from plans.errors import UserError
from plans.file_names import split_ending
from plans.layout import SUMMARY
from plans.raw.case_list import CaseList
from textdiffseg.evaluation.summary import Summary
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.masks import with_values
from textdiffseg.progress import OnProgress, ProgressEvent, silent
from textdiffseg.report.overlays import legend, overlay
from textdiffseg.report.page import Html, Section, join, notes
from textdiffseg.report.scores import box_plots, lesions, scores_table
from textdiffseg.report.segmented import SegmentedScan, check_section, volumes_section
from textdiffseg.report.shown import Parts, ShownCase, shown_case
from textdiffseg.report.viewer import ViewedCase
from textdiffseg.tasks.manifest import Manifest, hash_inputs
from textdiffseg.tasks.predict import find_scans
from textdiffseg.tasks.volume_table import finished

Files = Mapping[str, tuple[Path, ...]]
"""The files of each scan, by case."""
MAX_PICTURES = 12
MAX_VIEWED = 3  # cases in the viewer


def finished_manifests(folder: Path) -> dict[str, Manifest]:
    """The manifests of all masks in a folder, by case. If a case has several masks, by the name of the mask."""
    manifests = list(finished(folder))
    masks = Counter(manifest.request.case for manifest in manifests)

    def name(manifest: Manifest) -> str:
        case = manifest.request.case
        return case if masks[case] == 1 else split_ending(next(iter(manifest.outputs)))[0]

    return {name(manifest): manifest for manifest in manifests}


def segmentations_sections(
    folder: Path,
    manifests: Mapping[str, Manifest],
    scans: str | Path | CaseList | None,
    series: str | None = None,
    progress: OnProgress = silent,
) -> tuple[list[Section], list[ViewedCase]]:
    """All sections but the viewer, and the scans for the viewer."""
    segmented = sorted((_segmented(*named) for named in manifests.items()), key=lambda scan: scan.order)
    files = None if scans is None else _files_of(scans, manifests, series)
    cases, shown = _cases_section(folder, manifests, segmented, files, progress)
    sections = [check_section(segmented), cases, volumes_section(segmented)]
    if (folder / SUMMARY).is_file():
        summary = Summary.read(folder / SUMMARY)
        body = (box_plots({"": summary.cases}), scores_table(summary.cases, [summary]), lesions(summary))
        sections.append(Section("scores", "Scores", join(body)))
    return sections, shown


def _segmented(name: str, manifest: Manifest) -> SegmentedScan:
    remarks = tuple(dict.fromkeys((*manifest.scan_notes, *manifest.notes)))
    return SegmentedScan(name, manifest.volumes, manifest.expected_dice, remarks)


def _cases_section(
    folder: Path,
    manifests: Mapping[str, Manifest],
    segmented: list[SegmentedScan],
    files: Files | None,
    progress: OnProgress,
) -> tuple[Section, list[ViewedCase]]:
    """The section with pictures of the scans to check first, and the first of these scans for the viewer.

    One scan is in memory at a time.
    """
    faults: list[str] = []
    pictures: list[Html] = []
    viewed: list[ViewedCase] = []
    if files is None:
        faults.append("There are no pictures, because the scans were not given. Give their folder with --scans.")
    else:
        first = segmented[:MAX_PICTURES]
        names = dict.fromkeys(name for scan in first for name in manifests[scan.name].labels)
        parts = {name: (number,) for number, name in enumerate(names, start=1)}  # one colour for one name
        for done, scan in enumerate(first):
            progress(ProgressEvent("Draw the scans", done, len(first), "scan", scan.name))
            try:
                found = replace(_shown(folder, manifests[scan.name], files, scan.advice, parts), name=scan.name)
                pictures.append(overlay(found))
                if len(viewed) < MAX_VIEWED:
                    viewed.append(ViewedCase.of(found))
                del found
            except UserError as error:
                faults += [f"There is no picture of {scan.name}: {line}" for line in error.lines]
        progress(ProgressEvent("Draw the scans", len(first), len(first), "scan"))
    if len(segmented) > MAX_PICTURES and pictures:
        faults.append(f"The pictures show the first {MAX_PICTURES} of {len(segmented)} scans.")
    colours = legend(viewed[0].parts) if viewed else Html("")
    body = join((notes(faults), colours, *pictures))
    return Section("cases", "Pictures", body), viewed


def _files_of(scans: str | Path | CaseList, manifests: Mapping[str, Manifest], series: str | None) -> Files:
    if isinstance(scans, CaseList):
        return scans.scans
    channels = [{*manifest.request.channels} for manifest in manifests.values()]
    most = max(len(of_case) for of_case in channels)
    return find_scans(scans, most, series, {n for of_case in channels for n in range(max(of_case)) if n not in of_case})


def _shown(folder: Path, manifest: Manifest, files: Files, advice: str, parts: Parts) -> ShownCase:
    """The scan of a manifest with its mask, and its map of uncertainty if there is one.

    `parts`: the number that each label gets. Two scans may have different labels, or other values for them.

    Raises `UserError` if the scan is missing or is not the one that was segmented.
    """
    case = manifest.request.case
    if case not in files:
        raise UserError("it is not among the scans.")
    if [*hash_inputs(files[case]).values()] != [*manifest.request.inputs.values()]:  # a list may name them otherwise
        raise UserError(f"{files[case][0]} has changed since it was segmented. Segment it again.")
    mask, *others = manifest.outputs
    entropy = next((other for other in others if "entropy" in other), None)
    doubt = None if entropy is None else read_volume((folder / entropy,)).array[0]
    scan = read_volume(files[case][:1])
    numbers = {value: parts[name][0] for name, value in manifest.labels.items()}
    found = with_values(read_labels(folder / mask).array[0], numbers)
    if found.shape != scan.geometry.shape:
        raise UserError(f"{folder / mask}: its size is not that of the scan.")
    # Manifests do not note the modality. Only CT has intensities as low as air's.
    return shown_case(case, scan, found, parts, hounsfield=True, uncertainty=doubt, lines=(advice,) if advice else ())
