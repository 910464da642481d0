"""`Dataset`: `dataset.json` and the cases found on disk, validated. No image is opened here."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from pydantic import Field

from plans.annotation import Annotation, annotations_of
from plans.errors import UserError
from plans.header import DatasetHeader, LabelTable, channels_of, file_ending_of, labels_of
from plans.layout import RawFolder, channel_file
from plans.plan import LabelPlan
from plans.records import Record
from plans.regions import Regions
from plans.texts import find_texts

MAX_ID_BYTES = 200  # file names may have 255, and endings are added to an id


class Case(Record):
    """One training scan's files and what is known of them.

    Several channels in one file (the Decathlon's 4D images) are one path.
    """

    id: str
    images: tuple[Path, ...] = Field(min_length=1)  # one a channel
    label: Path
    group: str | None = None  # cases of one group are never split between training and validation
    annotation: Annotation  # how to read the label file
    text: str | None = None  # what is known of this case in words, of texts/CASE.txt


class Dataset(Record):
    """A data set in the raw format."""

    folder: Path
    name: str  # folder name, e.g. Dataset004_Hippocampus
    title: str  # e.g. Hippocampus
    channels: tuple[str, ...] = Field(min_length=1)
    labels: tuple[LabelPlan, ...] = Field(min_length=1)
    regions: Regions | None = None  # of each label, the values that it is made of; None: labels do not overlap
    file_ending: str
    cases: tuple[Case, ...]  # training

    @property
    def known_together(self) -> tuple[tuple[int, ...], ...]:
        """The largest sets of label numbers that are known of one case; () where some case tells of all labels."""
        known = {case.annotation.known for case in self.cases}
        sets = sorted(
            tuple(number for number, label in enumerate(self.labels, start=1) if label.name in one)
            for one in known
            if not any(one < other for other in known)
        )
        return () if sets == [tuple(range(1, len(self.labels) + 1))] else tuple(sets)


def read_dataset(folder: Path) -> Dataset:
    """Read and check a raw data set; `UserError` lists every fault with its file, field and what to do."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give the folder that holds dataset.json, imagesTr and labelsTr.")
    raw = RawFolder(folder)
    path = raw.header
    if not path.is_file():
        inside = ", ".join(sorted(child.name for child in folder.iterdir())[:8]) or "nothing"
        fields = "channel_names, labels, numTraining, file_ending"
        raise UserError(f"{path} does not exist; the folder holds {inside}. Write one as nnU-Net's ({fields}).")
    header, source = DatasetHeader.read(path), str(path)
    faults: list[str] = []
    channels = channels_of(header, source, faults)
    table = labels_of(header, source, faults)
    ending = file_ending_of(header, _names(raw.images("Tr")), source, faults)
    cases = () if faults else _training_cases(folder, header, channels, table, ending, faults)
    if faults:
        raise UserError(*faults)
    name = folder.resolve().name
    return Dataset(
        folder=folder,
        name=name,
        title=header.name or name.partition("_")[2] or name,
        channels=channels,
        labels=table.labels,
        regions=table.regions,
        file_ending=ending,
        cases=cases,
    )


def _training_cases(
    folder: Path, header: DatasetHeader, channels: Sequence[str], table: LabelTable, ending: str, faults: list[str]
) -> tuple[Case, ...]:
    raw = RawFolder(folder)
    images, labels = raw.images("Tr"), raw.labels("Tr")
    groups = {case: str(group) for case, group in (header.group or {}).items()}
    if header.dataset is not None:
        files = _listed_files(folder, header.dataset, faults)
    elif not images.is_dir():
        faults.append(f"{images} does not exist. Put the training images there, e.g. CASE_0000{ending}.")
        return ()
    else:
        there = _names(images)
        found = _group_files(images, there + header.listed_images, set(_names(labels)), channels, ending)
        faults += [
            f"{images}: {case}{ending} stands beside {paths[0].name}. Remove one."
            for case, paths in found.items()
            if f"{case}{ending}" in there and paths[0].name != f"{case}{ending}"
        ]
        files = {case: (paths, labels / f"{case}{ending}") for case, paths in found.items()}
        unused = [name for name in _names(labels) if name.endswith(ending) and name[: -len(ending)] not in files]
        faults += [f"{labels / name} has no image in {images}. Add the image or remove the label." for name in unused]
    if not files and not faults:
        faults.append(f"{images} holds no file ending with {ending}. Put the training images there.")
    for case, (paths, label) in files.items():
        if not is_plain_name(case):
            where = f"{raw.header}: dataset" if header.dataset is not None else str(images)
            faults.append(
                f"{where}: {case[:MAX_ID_BYTES]!r} cannot be a case id: expected one plain file name of at most "
                f"{MAX_ID_BYTES} bytes in UTF-8, without slashes, control characters or a leading dot. Rename it."
            )
            continue
        faults += _case_faults(case, paths, label, channels)
    faults += [f"{raw.header}: group.{case}: no such case." for case in sorted(set(groups) - set(files))]
    held_out = _test_cases(folder, channels, ending) - set(files)
    annotations = annotations_of(header, table, tuple(files), held_out, str(raw.header), faults)
    texts = find_texts(raw.texts, files, held_out, faults)
    return tuple(
        Case(
            id=case,
            images=paths,
            label=label,
            group=groups.get(case),
            annotation=annotations[case],
            text=texts.get(case),
        )
        for case, (paths, label) in sorted(files.items())
    )


def is_plain_name(case: str) -> bool:
    """Whether an id names one file in any folder and nothing outside it: files are written and deleted by it."""
    try:
        size = len(case.encode())
    except UnicodeEncodeError:  # bytes of a file name that are not UTF-8
        return False
    return 0 < size <= MAX_ID_BYTES and case.isprintable() and not case.startswith(".") and not {*"/\\"} & {*case}


def _test_cases(folder: Path, channels: Sequence[str], ending: str) -> set[str]:
    """The test cases whose files are complete; what is missing there concerns no training."""
    raw = RawFolder(folder)
    images = raw.images("Ts")
    files = _group_files(images, _names(images), set(_names(raw.labels("Ts"))), channels, ending)
    return {
        case
        for case, paths in files.items()
        if all(path.is_file() for path in paths) and len(paths) in (1, len(channels))
    }


def _listed_files(
    folder: Path, entries: Mapping[str, dict[str, Any]], faults: list[str]
) -> dict[str, tuple[tuple[Path, ...], Path]]:
    files: dict[str, tuple[tuple[Path, ...], Path]] = {}
    for case, entry in entries.items():
        images, label = entry.get("images"), entry.get("label")
        if not isinstance(images, list) or not images or not isinstance(label, str):
            faults.append(f"{RawFolder(folder).header}: dataset.{case}: expected images (a list) and label (a path).")
        else:
            paths = [folder / PureWindowsPath(str(path)).as_posix() for path in (*images, label)]
            files[case] = (tuple(paths[:-1]), paths[-1])
    return files


def _names(folder: Path) -> list[str]:
    """Names in a folder, without hidden files."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _group_files(
    images: Path, names: Iterable[str], label_names: set[str], channels: Sequence[str], ending: str
) -> dict[str, tuple[Path, ...]]:
    """File names to cases: CASE_0000 a channel each; a plain name is one channel, or all of them in one file."""
    suffixed: dict[str, set[int]] = {}
    plain: set[str] = set()
    for name in names:
        if not name.endswith(ending):
            continue
        stem = name[: -len(ending)]
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match and f"{stem}{ending}" not in label_names:
            suffixed.setdefault(match[1], set()).add(int(match[2]))
        else:
            plain.add(stem)
    cases: dict[str, tuple[Path, ...]] = {case: (images / f"{case}{ending}",) for case in plain}
    for case, numbers in suffixed.items():
        wanted = sorted(numbers | set(range(len(channels))))
        cases[case] = tuple(images / channel_file(case, number, ending) for number in wanted)
    return dict(sorted(cases.items()))


def _case_faults(case: str, paths: tuple[Path, ...], label: Path, channels: Sequence[str]) -> list[str]:
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
