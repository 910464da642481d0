"""The report: one HTML file on a data set and its trained presets, or on a folder of segmentations."""

from pathlib import Path

from plans.errors import UserError
from plans.raw.case_list import CaseList
from textdiffseg.arguments import path_of
from textdiffseg.extras import require
from textdiffseg.files import check_place, write_atomically
from textdiffseg.leftovers import sweep
from textdiffseg.progress import OnProgress, Report, silent
from textdiffseg.report.page import Html, Section, is_page, page
from textdiffseg.report.viewer import ViewedCase, viewer_scripts, viewer_section
from textdiffseg.tasks.manifest import versions
from textdiffseg.tasks.report_results import find_results, results_sections
from textdiffseg.tasks.report_segmentations import finished_manifests, segmentations_sections

_ENDINGS = (".html", ".htm")


def write_report(
    source: str | Path | int,
    out: str | Path,
    *,
    root: str | Path = ".",
    preset: str | None = None,
    scans: str | Path | CaseList | None = None,
    series: str | None = None,
    title: str | None = None,
    report: Report = silent,
    progress: OnProgress = silent,
) -> Path:
    """The path of the report, which is written. It opens from disk, without a network.

    Args:
        source: a data set (id, name or folder name), a folder of results, or a folder of segmentations.
        out: the HTML file.
        root: the folder with raw/, preprocessed/ and results/.
        preset: the preset that is shown in detail, if several are trained; None: `default`, else the first.
        scans: for segmentations: the scans that were segmented. Without them, the report has no pictures.
        series: UID of the DICOM series that was segmented; None: the largest one of each folder.
        title: of the page; None: the name of the data set or folder.
        report: called with a sentence for each preset or fold that cannot be read. The page holds the others.

    Raises:
        UserError: nothing is found, all of it is damaged, or matplotlib is not installed.
    """
    require("report", "A report", "matplotlib")
    out, source = path_of(out), str(source)
    refuse_other_page(out)
    if series is not None and scans is None:
        raise UserError(f"--series {series}: it chooses among the scans. Give them with --scans, or leave it out.")
    check_place(out)
    folder = path_of(source)
    manifests = finished_manifests(folder) if folder.is_dir() else {}
    if manifests:
        if preset is not None:
            raise UserError(f"--preset: {folder} holds segmentations of one model. Leave the option out.")
        name = folder.resolve().name
        sections, shown = segmentations_sections(folder, manifests, scans, series, progress)
    else:
        if scans is not None:
            raise UserError(f"--scans: {source} is not a folder of segmentations. Leave the option out.")
        results = find_results(source, path_of(root), preset, report)
        name = results.plan.dataset
        sections, shown = results_sections(results, progress)
    sweep([out.parent])
    write_atomically(out, _page(title or name, sections, shown))
    return out


def refuse_other_page(out: Path) -> None:
    """Raise `UserError` if a report would replace another file, or has no name of an HTML file."""
    if out.is_file() and not is_page(out):
        raise UserError(f"{out} exists and is not a report. Move it away, or choose another place with -o.")
    if out.suffix.lower() not in _ENDINGS or out.is_dir():
        raise UserError(f"{out}: the report is an HTML file. Choose a name that ends with .html.")


def _page(title: str, sections: list[Section], shown: list[ViewedCase]) -> str:
    """The page. The viewer stands behind the pictures of cases."""
    scripts = Html("")
    if shown:
        anchors = [section.anchor for section in sections]
        place = anchors.index("cases") + 1 if "cases" in anchors else len(sections)
        sections = [*sections[:place], viewer_section(shown), *sections[place:]]
        scripts = viewer_scripts(shown)
    made = versions()
    subtitle = f"Report of TextDiffSeg {made['textdiffseg']}. This file is complete: it loads nothing from elsewhere."
    return page(title, subtitle, sections, scripts)
