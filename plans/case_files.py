"""Which files of a raw data set belong to which case, by their names alone. No file is opened."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from plans.errors import listed
from plans.file_names import FILE_ENDINGS, channel_file, split_ending

# Files that often lie beside scans: notes on them, and the voxels of a .mhd.
COMPANIONS = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".html", ".pdf", ".raw", ".zraw")


def names_in(folder: Path) -> list[str]:
    """The names in a folder, without hidden files; none where there is no folder."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def unread(folder: Path, names: Iterable[str]) -> list[str]:
    """A sentence on the files and folders that are not read, as their endings are not known; [] if there are none."""
    names = list(names)
    pairs = {f"{split_ending(name)[0]}.img" for name in names if split_ending(name)[1] == ".hdr"}
    found = [
        name
        for name in names
        if not split_ending(name)[1] and not name.lower().endswith(COMPANIONS) and name not in pairs
    ]
    if not found:
        return []
    what = f"{len(found)} entries are" if len(found) > 1 else "1 entry is"
    return [
        f"{folder}: {what} not read: {listed(found)}. Read are files that end with {', '.join(FILE_ENDINGS)}: "
        "convert what belongs to the data set."
    ]


def by_stem(folder: Path, names: Iterable[str], faults: list[str]) -> dict[str, str]:
    """Name without ending -> name, of the files that are read; `faults` gets those that differ in the ending alone."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        stem, ending = split_ending(name)
        if ending and (other := found.setdefault(stem, name)) != name:
            faults.append(f"{folder}: {other} and {name} would be one file of one case. Remove one of them.")
    return found


def group_images(
    images: Path,
    files: Mapping[str, str],
    labels: Collection[str],
    channels: Sequence[str],
    ending: str,
    faults: list[str],
) -> dict[str, tuple[Path, ...]]:
    """Case -> its images. CASE_0000 is one channel; a plain name is one channel, or all of them in one file.

    files: name without ending -> name; labels: the names of labels without endings, which may end with digits too;
    ending: that of files that are missing. `faults` gets the cases that have files of both kinds.
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
            faults.append(f"{images}: {cases[case][0].name} stands beside {first}. Remove one.")
        wanted = sorted({*numbers, *range(len(channels))})
        cases[case] = tuple(images / numbers.get(number, channel_file(case, number, ending)) for number in wanted)
    return dict(sorted(cases.items()))


def faults_of_files(case: str, paths: tuple[Path, ...], label: Path, channels: Sequence[str]) -> list[str]:
    """Sentences on a case's files that are missing or too many."""
    faults = [
        f"case {case}: {path} is missing (dataset.json names {len(channels)} channels). Add it or remove the case."
        for path in paths
        if not path.is_file()
    ]
    if len(paths) > len(channels):
        extra = ", ".join(path.name for path in paths[len(channels) :])
        faults.append(f"case {case}: {extra}: dataset.json names only {len(channels)} channels. Name it or remove it.")
    elif 1 < len(paths) < len(channels):
        faults.append(f"case {case}: {len(paths)} images for {len(channels)} channels. List one a channel.")
    if not label.is_file():
        faults.append(f"case {case}: {label} is missing. Add the label, or move the images to imagesTs.")
    return faults
