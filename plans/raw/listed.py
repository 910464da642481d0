"""The files of each case, where `dataset.json` lists them. No file is opened.

A list may stand under `dataset`, as in nnU-Net 2, or under `training`, as in the lists of the Decathlon and of MONAI.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from plans.file_names import split_channel, split_ending
from plans.raw.case_files import Files
from plans.raw.header import DatasetHeader

Owner = TypeVar("Owner", str, int)
"""Who lists a scan: a case by its id, or a row by its number."""


def listing_of(header: DatasetHeader) -> str | None:
    """The field that lists the files: `dataset` or `training`; None where files are found by their names.

    In the Decathlon's `training`, an image and its label have one name, and both are found. So this list is read only
    where names differ.
    """
    if header.dataset is not None:
        return "dataset"
    return "training" if not all(map(_of_one_name, header.training or [])) else None


def listed_files(folder: Path, header: DatasetHeader, source: str, faults: list[str]) -> Files:
    """The files of each case that `dataset.json` lists.

    Args:
        folder: of the data set. Paths are relative to it.
        header: with a list of files.
        source: path of `dataset.json`, for messages.
        faults: receives a line per fault.
    """
    files: Files = {}
    entries, field = header.dataset, f"{source}: {listing_of(header)}"
    if entries is None:
        entries = _by_case(header.training or [], field, faults)
    for case, entry in entries.items():
        images, label = entry.get("images"), entry.get("label")
        labels = [label] if isinstance(label, str) else label if _are_texts(label) else []  # a list: one per rater
        if not isinstance(images, list) or not images or not labels:
            files_expected = "images (a list)" if header.dataset is not None else "image (a path)"
            faults.append(f"{field}.{case}: expected {files_expected} and label (a path).")
            continue
        paths = [None if path is None else _below(folder, str(path)) for path in images]  # None: a missing channel
        files[case] = (tuple(paths), tuple(_below(folder, path) for path in labels))
        if len({*files[case][1]}) < len(labels):
            faults.append(f"{field}.{case}: one label is listed twice. Remove it.")
    owners: dict[Path, str] = {}
    for case, (scans, masks) in files.items():
        faults += [
            f"{field}.{case}: {path} is a file of case {other} already. List a scan once."
            for path, other in listed_before(filter(None, scans), masks, case, owners)
        ]
    return files


def listed_before(
    scans: Iterable[Path], masks: Collection[Path], owner: Owner, owners: dict[Path, Owner]
) -> Iterator[tuple[Path, Owner]]:
    """The scans that are listed already, each with its owner: an earlier case, or this one. The others are noted.

    Args:
        scans: of a case.
        masks: of the case. Each may belong to several scans, e.g. of one atlas.
        owner: this case, or its row.
        owners: of the scans that were listed before; receives the others.
    """
    for scan in scans:
        if scan in masks or scan in owners:
            yield scan, owner if scan in masks else owners[scan]
        owners.setdefault(scan, owner)


def _of_one_name(entry: Mapping[str, Any]) -> bool:
    """Whether an image and its label have the name of one case. Also true where an entry does not name both."""
    image, label = entry.get("image"), entry.get("label")
    if not isinstance(image, str) or not isinstance(label, str):
        return not (image and label)
    stem, case = _stem(label), _case_of(image)
    return stem in (case, _stem(image)) or stem.startswith(f"{case}.")  # of a rater


def _by_case(entries: Iterable[Mapping[str, Any]], field: str, faults: list[str]) -> dict[str, dict[str, Any]]:
    """The entries of `training` in the form of those of `dataset`.

    A case has the name of its image, without the number of the channel. With an image per channel it has that of its
    label. `faults` receives a line for each name that two entries have.
    """
    cases: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        image, label = entry.get("image"), entry.get("label")
        if not image or not label:
            faults.append(f"{field}: entry {number}: expected image and label. Add them, or remove the entry.")
            continue
        first = label[0] if isinstance(label, list) else label
        case = _stem(str(first)) if isinstance(image, list) else _case_of(str(image))
        if case in cases:
            faults.append(
                f"{field}: entry {number}: an earlier entry is case {case}, too. Give each case its own file name, or "
                'list the files under "dataset", by case.'
            )
        cases[case] = {"images": image if isinstance(image, list) else [image], "label": label}
    return cases


def _case_of(image: str) -> str:
    channel = split_channel(_stem(image))
    return channel[0] if channel else _stem(image)


def _stem(path: str) -> str:
    return split_ending(PureWindowsPath(path).name)[0]


def _below(folder: Path, path: str) -> Path:
    """The path of a file that `dataset.json` lists. It may have slashes or backslashes, and `$NAME` as in nnU-Net."""
    return folder / PureWindowsPath(os.path.expandvars(path)).as_posix()


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
