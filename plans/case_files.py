"""The files of each case of a raw data set, found by their names. No file is opened."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from plans.errors import listed
from plans.file_names import FILE_ENDINGS, channel_file, split_ending

Files = dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]
"""The images and the labels of each case.

There is one image per channel, or one image with all channels. There is one label, or one per rater.
"""

# Endings of files that often lie beside scans: notes, and the voxels of a .mhd file.
COMPANIONS = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".html", ".pdf", ".raw", ".zraw")


def names_in(folder: Path) -> list[str]:
    """The names in a folder, without hidden files. Empty if the folder does not exist."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def unread(folder: Path, names: Iterable[str]) -> list[str]:
    """A note on the files and folders whose endings are not known; [] if there are none."""
    names = list(names)
    pairs = {f"{split_ending(name)[0]}.img" for name in names if split_ending(name)[1] == ".hdr"}
    unknown = [
        name
        for name in names
        if not split_ending(name)[1] and not name.lower().endswith(COMPANIONS) and name not in pairs
    ]
    if not unknown:
        return []
    count = f"{len(unknown)} entries are" if len(unknown) > 1 else "1 entry is"
    return [
        f"{folder}: {count} not read: {listed(unknown)}. Convert the files that belong to the data set: expected "
        f"one of the endings {', '.join(FILE_ENDINGS)}."
    ]


def by_stem(folder: Path, names: Iterable[str], faults: list[str]) -> dict[str, str]:
    """The files that are read: name without ending -> name.

    `faults` receives a line for two names that differ only in the ending.
    """
    files: dict[str, str] = {}
    for name in dict.fromkeys(names):
        stem, ending = split_ending(name)
        if ending and (other := files.setdefault(stem, name)) != name:
            faults.append(f"{folder}: {other} and {name} would be one case. Remove one of them.")
    return files


def group_images(
    images: Path,
    files: Mapping[str, str],
    labels: Collection[str],
    channels: Sequence[str],
    ending: str,
    faults: list[str],
) -> dict[str, tuple[Path, ...]]:
    """The images of each case: CASE_0000 is one channel; a plain name is one channel, or all channels in one file.

    Args:
        images: the folder.
        files: name without ending -> name.
        labels: the names of label files, without endings. They may end with four digits too.
        channels: the names of the channels.
        ending: the ending of missing files, for messages.
        faults: receives a line for each case with files of both kinds.
    """
    suffixed: dict[str, dict[int, str]] = {}
    cases: dict[str, tuple[Path, ...]] = {}
    for stem, name in files.items():
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match and stem not in labels:
            suffixed.setdefault(match[1], {})[int(match[2])] = name
        else:
            cases[stem] = (images / name,)
    for case, numbers in suffixed.items():
        if case in cases and cases[case][0].is_file():  # dataset.json may list plain names of suffixed files
            first = numbers[min(numbers)]
            faults.append(f"{images}: {cases[case][0].name} and {first} are files of one case. Remove one of them.")
        wanted = sorted({*numbers, *range(len(channels))})
        cases[case] = tuple(images / numbers.get(number, channel_file(case, number, ending)) for number in wanted)
    return dict(sorted(cases.items()))


def faults_of_files(case: str, paths: tuple[Path, ...], labels: tuple[Path, ...], channels: Sequence[str]) -> list[str]:
    """One line for each file of a case that is missing or superfluous."""
    faults = [
        f"case {case}: {path} is missing (dataset.json names {len(channels)} channels). Add it or remove the case."
        for path in paths
        if not path.is_file()
    ]
    if len(paths) > len(channels):
        extra = ", ".join(path.name for path in paths[len(channels) :])
        faults.append(
            f"case {case}: {extra}: dataset.json names only {len(channels)} channels. Name it, or remove the file."
        )
    elif 1 < len(paths) < len(channels):
        faults.append(f"case {case}: {len(paths)} images for {len(channels)} channels. List one image per channel.")
    faults += [
        f"case {case}: {label} is missing. Add the label, or move the images to imagesTs."
        for label in labels
        if not label.is_file()
    ]
    return faults


def listed_files(folder: Path, entries: Mapping[str, dict[str, Any]], source: str, faults: list[str]) -> Files:
    """The files of each case that `dataset.json` lists.

    Args:
        folder: of the data set.
        entries: case -> images and label, or one label per rater.
        source: path of `dataset.json`, for messages.
        faults: receives a line per fault.
    """
    files: Files = {}
    for case, entry in entries.items():
        images, label = entry.get("images"), entry.get("label")
        labels = [label] if isinstance(label, str) else label if _are_texts(label) else []  # a list: one per rater
        if not isinstance(images, list) or not images or not labels:
            faults.append(f"{source}: dataset.{case}: expected images (a list) and label (a path).")
            continue
        paths = [folder / PureWindowsPath(str(path)).as_posix() for path in (*images, *labels)]
        files[case] = (tuple(paths[: len(images)]), tuple(paths[len(images) :]))
        if len({*paths[len(images) :]}) < len(labels):
            faults.append(f"{source}: dataset.{case}: one label is listed twice. Remove it.")
    return files


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
