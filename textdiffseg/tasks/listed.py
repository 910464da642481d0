"""Scans that a list names: their texts, and a check that no mask replaces one of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from plans.errors import UserError, merged
from plans.file_names import composed
from plans.raw.case_list import CaseList
from plans.raw.texts import read_texts
from textdiffseg.arguments import path_of
from textdiffseg.progress import Report
from textdiffseg.tasks.announce import report_texts
from textdiffseg.tasks.one_scan import PredictionRun, mask_path


def find_case_texts(
    source: str | Path | CaseList, folder: str | Path | None, scans: Mapping[str, tuple[Path, ...]]
) -> tuple[Mapping[str, str], int]:
    """The texts of the scans that have one, by case, and the number of texts in `folder` of other cases.

    Raises `UserError` if both the list and a folder give texts.
    """
    listed = source.texts if isinstance(source, CaseList) else {}
    if folder is None:
        return listed, 0
    if isinstance(source, CaseList) and listed:
        raise UserError(f"{source.path}: text: texts come from this list, or from --texts. Leave one of them out.")
    ids = {composed(case): case for case in scans}  # a Mac writes names in another Unicode form
    texts, others = read_texts(path_of(folder), ids)
    return {ids[case]: text for case, text in texts.items()}, others


def report_case_texts(run: PredictionRun, scans: int, strays: int, folder: str | Path | None, report: Report) -> None:
    """Report how many of the scans have a text, if texts were given. The arguments are those of `report_texts`."""
    if run.texts or folder is not None:
        report_texts({case: one.entry.length for case, one in run.texts.items()}, scans, strays, folder, report)


def refuse_replaced_scans(run: PredictionRun, scans: Mapping[str, tuple[Path, ...]]) -> None:
    """Raise `UserError` if the mask of one scan would replace another scan."""
    owners = {os.path.realpath(path): case for case, paths in scans.items() for path in paths}
    faults = []
    for case, paths in scans.items():
        mask = mask_path(run, case, paths)
        owner = owners.get(os.path.realpath(mask), case)
        if owner != case:
            faults.append((case, f"case {case}: {mask} is the scan of case {owner}. Choose another output folder."))
    if faults:
        raise UserError(*merged(faults))
