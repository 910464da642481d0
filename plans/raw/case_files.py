"""The files of each case of a raw data set, found by their names. No file is opened.

Names are compared in one Unicode form (`file_names.composed`).
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from plans.errors import listed, merged, printable
from plans.file_names import (
    FILE_ENDINGS,
    channel_file,
    composed,
    rater_file,
    split_channel,
    split_ending,
    voxel_files,
)
from plans.layout import RawFolder
from plans.raw.raters import almost_rater, group_references

Images = tuple[Path | None, ...]
"""One image per channel, or one image with all channels. None: an optional channel that the case lacks."""

Files = dict[str, tuple[Images, tuple[Path, ...]]]
"""The images and the labels of each case. There is one label, or one per rater."""

# Endings of files that often lie beside scans.
_COMPANIONS = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".html", ".pdf")
_VOXELS, _THEIR_HEADERS = (".raw", ".zraw", ".raw.gz"), (".mhd", ".nhdr")  # a header may name any file


def names_in(folder: Path) -> list[str]:
    """The names in a folder, without hidden files. Empty if the folder does not exist."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def unread(folder: Path, names: Iterable[str]) -> list[str]:
    """A note on the files and folders whose endings are not known; [] if there are none."""
    names = list(names)
    headers = [split_ending(name)[0] for name in names if split_ending(name)[1] == ".hdr"]
    pairs = {name for stem in headers for name in voxel_files(stem)}
    beside = _COMPANIONS + (_VOXELS if any(name.lower().endswith(_THEIR_HEADERS) for name in names) else ())
    unknown = [
        name
        for name in names
        if not split_ending(name)[1] and not name.lower().endswith(beside) and name.lower() not in pairs
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
        if ending and (other := files.setdefault(composed(stem), name)) != name:
            faults.append(f"{folder}: {other} and {name} would be one case. Remove one of them.")
    return files


def group_images(
    images: Path,
    files: Mapping[str, str],
    labels: Collection[str],
    channels: Sequence[str],
    ending: str,
    faults: list[str],
    optional: Collection[int] = (),
) -> dict[str, Images]:
    """The images of each case: CASE_0000 is one channel; a plain name is one channel, or all channels in one file.

    Args:
        images: the folder.
        files: name without ending -> name.
        labels: the names of label files, without endings. They may end with four digits too.
        channels: the names of the channels.
        ending: the ending of missing files, for messages.
        faults: receives a line for each case with files of both kinds.
        optional: the numbers of the channels that a case may lack.
    """
    suffixed: dict[str, dict[int, str]] = {}
    plain: dict[str, Path] = {}
    cases: dict[str, Images] = {}
    for stem, name in files.items():
        numbered = split_channel(stem)
        if numbered and stem not in labels:
            case, channel = numbered
            suffixed.setdefault(case, {})[channel] = name
        else:
            plain[stem] = images / name
            cases[stem] = (plain[stem],)
    for case, numbers in suffixed.items():
        if case in plain and plain[case].is_file():  # dataset.json may list plain names of suffixed files
            first = numbers[min(numbers)]
            faults.append(f"{images}: {plain[case].name} and {first} are files of one case. Remove one of them.")
        wanted = sorted({*numbers, *range(len(channels))})
        cases[case] = tuple(
            None
            if number in optional and number not in numbers
            else images / numbers.get(number, channel_file(case, number, ending))
            for number in wanted
        )
    return dict(sorted(cases.items()))


def owner_of_channel(case: str, cases: Collection[str], channels: int) -> str | None:
    """The other case of which the id `case` names a channel, as `a_0000` does beside `a`; None if there is none."""
    owner, channel = split_channel(composed(case)) or (case, channels)
    return owner if channel < channels and owner in map(composed, cases) else None


def files_in_folders(
    raw: RawFolder,
    listed_images: list[str],
    channels: Sequence[str],
    optional: Sequence[int],
    ending: str,
    faults: list[str],
) -> Files:
    """The files of each case, found by their names in imagesTr and labelsTr. Endings may be mixed."""
    images, labels = raw.images("Tr"), raw.labels("Tr")
    label_names = by_stem(labels, names_in(labels), faults)
    image_names = by_stem(images, listed_images, []) | by_stem(images, names_in(images), faults)
    own = group_images(images, image_names, label_names, channels, ending, [], optional)
    references = group_references(labels, label_names, own, faults)
    cases = group_images(images, image_names, references, channels, ending, faults, optional)
    faults += merged(
        (case, _without_image(labels / name, case, images, cases))
        for case, names in references.items()
        if case not in cases
        for name in names
    )
    return {
        case: (paths, tuple(labels / name for name in references.get(case, (f"{case}{ending}",))))
        for case, paths in cases.items()
    }


def _without_image(label: Path, stem: str, images: Path, cases: Collection[str]) -> str:
    """A line on a label file without an image of its name."""
    if case := almost_rater(stem, cases):
        name = rater_file(case, 1, split_ending(label.name)[1])
        return f"{label}: no image has this name. If it is a rater's label of case {case}, name it like {name}."
    return f"{label} has no image in {images}. Add the image or remove the label."


def faults_of_files(
    case: str, paths: Images, labels: tuple[Path, ...], channels: Sequence[str], optional: Collection[int] = ()
) -> list[str]:
    """One line for each file of a case that is missing or superfluous."""
    advice = "Add it or remove the case."
    if len(channels) > 1:
        advice += ' If a case may lack this channel, name it under "optional_channels".'
    faults = [
        _dead_link(case, path)
        or f"case {case}: {path} is missing (dataset.json names {len(channels)} channels). {advice}"
        for path in paths
        if path is not None and not path.is_file()
    ]
    if len(paths) > len(channels):
        extra = ", ".join(path.name for path in paths[len(channels) :] if path is not None)
        faults.append(
            f"case {case}: {extra}: dataset.json names only {len(channels)} channels. Name it, or remove the file."
        )
    elif 1 < len(paths) < len(channels):
        faults.append(f"case {case}: {len(paths)} images for {len(channels)} channels. List one image per channel.")
    elif not any(paths):
        faults.append(f"case {case}: it has no image. Add one, or remove the case.")
    elif len(paths) == len(channels):
        faults += [
            f"case {case}: {name} is null, but it is not an optional channel. Name its file, or name it under "
            '"optional_channels".'
            for number, (path, name) in enumerate(zip(paths, channels, strict=True))
            if path is None and number not in optional
        ]
    faults += [
        _dead_link(case, label) or f"case {case}: {label} is missing. Add the label, or move the images to imagesTs."
        for label in labels
        if not label.is_file()
    ]
    return faults


def _dead_link(case: str, path: Path) -> str | None:
    """A line on a file that is a link to nothing; None if it is not."""
    if not path.is_symlink() or path.exists():
        return None
    return (
        f"case {case}: {path} is a link to {printable(os.readlink(path))}, which is not there. Put the file back, or "
        "correct the link. If tds_new made it, run tds_new with the new place, -o FOLDER and --overwrite."
    )
