"""`Dataset`: `dataset.json` and the cases found on disk, validated. No image is opened here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from plans.errors import UserError, is_printable, merged
from plans.file_names import rater_of, split_ending
from plans.layout import RawFolder
from plans.plan import LabelPlan
from plans.raw.annotation import Annotation, annotations_of
from plans.raw.case_files import (
    Files,
    by_stem,
    faults_of_files,
    files_in_folders,
    group_images,
    names_in,
    unread,
)
from plans.raw.header import DatasetHeader, LabelTable, channels_of, file_ending_of, labels_of, optional_of
from plans.raw.listed import listed_files, listing_of
from plans.raw.raters import rater_notes
from plans.raw.texts import find_texts
from plans.records import Record
from plans.regions import Regions

MAX_ID_BYTES = 200  # a file name may have 255, and an ending is added to the id


class Case(Record):
    """The files of one training case, and the annotation of its label file.

    Several channels in one file (the Decathlon's 4D images) are one path.
    """

    id: str
    images: tuple[Path, ...] = Field(min_length=1)  # one per channel that the case has
    missing: tuple[int, ...] = ()  # the numbers of the optional channels that it lacks
    label: Path
    raters: tuple[Path, ...] = ()  # further labels of the same case, each by another rater
    group: str | None = None  # cases of one group are never split between training and validation
    annotation: Annotation  # how to read the label file
    declared: bool = False  # dataset.json states the annotated labels of this case
    text: str | None = None  # the case's own text, from texts/CASE.txt

    @property
    def references(self) -> tuple[Path, ...]:
        """All label files: one, or one per rater."""
        return self.label, *self.raters

    @property
    def lacking(self) -> str:
        """The missing channels as text for a hash. Empty if there are none, so that older hashes stay valid."""
        return f" lacking {self.missing}" if self.missing else ""


class Dataset(Record):
    """A data set in the raw format."""

    folder: Path
    name: str  # folder name, e.g. Dataset004_Hippocampus
    title: str  # e.g. Hippocampus
    channels: tuple[str, ...] = Field(min_length=1)
    optional: tuple[int, ...] = ()  # the numbers of the channels that a case may lack
    labels: tuple[LabelPlan, ...] = Field(min_length=1)
    regions: Regions | None = None  # the values of each label; None: labels do not overlap
    file_ending: str
    cases: tuple[Case, ...]  # training
    notes: tuple[str, ...] = ()  # sentences on possible mistakes

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the cases that have one."""
        return {case.id: case.text for case in self.cases if case.text}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in their order."""
        return tuple(label.name for label in self.labels)

    @property
    def known_together(self) -> tuple[tuple[int, ...], ...]:
        """The largest sets of labels that are known in one case, by number; () if one case has all labels known."""
        known = {case.annotation.known for case in self.cases}
        sets = sorted(
            tuple(number for number, label in enumerate(self.labels, start=1) if label.name in one)
            for one in known
            if not any(one < other for other in known)
        )
        return () if sets == [tuple(range(1, len(self.labels) + 1))] else tuple(sets)


def read_dataset(folder: Path) -> Dataset:
    """The raw data set in a folder, checked.

    Raises `UserError` with a line per fault: the file, the field, and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the folder that holds dataset.json, imagesTr and labelsTr.")
    path = RawFolder(folder).header
    if not path.is_file():
        inside = ", ".join(sorted(child.name for child in folder.iterdir())[:8]) or "nothing"
        fields = "channel_names, labels, numTraining, file_ending"
        raise UserError(f"{path} does not exist; the folder holds {inside}. Write it with nnU-Net's fields ({fields}).")
    name = folder.resolve().name
    if not is_printable(name):
        raise UserError(f"{folder}: a data set's folder needs a name of printable characters in UTF-8. Rename it.")
    return dataset_of(folder, DatasetHeader.read(path))


def dataset_of(folder: Path, header: DatasetHeader) -> Dataset:
    """The data set in a folder with this content of `dataset.json`, which need not be written yet.

    Raises `UserError` with a line per fault.
    """
    raw = RawFolder(folder)
    name, source = folder.resolve().name, str(raw.header)
    faults: list[str] = []
    channels = channels_of(header, source, faults)
    optional = optional_of(header, channels, source, faults)
    table = labels_of(header, source, faults)
    ending = file_ending_of(header, names_in(raw.images("Tr")), source, faults)
    cases = () if faults else _training_cases(folder, header, channels, optional, table, ending, faults)
    if faults:
        raise UserError(*faults)
    return Dataset(
        folder=folder,
        name=name,
        title=str(header.name or "") or name.partition("_")[2] or name,
        channels=channels,
        optional=optional,
        labels=table.labels,
        regions=table.regions,
        file_ending=ending,
        cases=cases,
        notes=(*_notes(raw, header, len(cases)), *_rater_notes(raw, header, cases)),
    )


def _training_cases(
    folder: Path,
    header: DatasetHeader,
    channels: Sequence[str],
    optional: Sequence[int],
    table: LabelTable,
    ending: str,
    faults: list[str],
) -> tuple[Case, ...]:
    raw = RawFolder(folder)
    images = raw.images("Tr")
    groups = {case: str(group) for case, group in (header.group or {}).items()}
    if listing_of(header):
        files = listed_files(folder, header, str(raw.header), faults)
    elif not images.is_dir():
        faults.append(f"{images} does not exist. Put the training images there, e.g. CASE_0000{ending}.")
        return ()
    else:
        files = files_in_folders(raw, header.listed_images, channels, optional, ending, faults)
    if not files and not faults:
        faults.append(f"{images} holds no file ending with {ending}. Put the training images there.")
    faults += _faults_of_cases(files, header, channels, optional, raw)
    if not faults:
        faults += _never_there(files, channels, str(raw.header))
    faults += merged(
        (case, f"{raw.header}: group.{case}: no such case. Correct the id, or remove the entry.")
        for case in sorted({*groups} - {*files})
    )
    if faults:
        faults += _unread(raw, header)
    held_out = _test_cases(folder, channels, ending) - set(files)
    annotations = annotations_of(header, table, tuple(files), held_out, str(raw.header), faults)
    texts = find_texts(raw.texts, files, held_out, faults)
    declared = {*header.annotated} if isinstance(header.annotated, dict) else {*files} if header.annotated else set()
    return tuple(
        Case(
            id=case,
            images=tuple(path for path in paths if path is not None),
            missing=tuple(number for number, path in enumerate(paths) if path is None),
            label=labels[0],
            raters=labels[1:],
            group=groups.get(case),
            annotation=annotations[case],
            declared=case in declared,
            text=texts.get(case),
        )
        for case, (paths, labels) in sorted(files.items())
        if any(paths)  # otherwise it is a fault
    )


def _faults_of_cases(
    files: Files, header: DatasetHeader, channels: Sequence[str], optional: Sequence[int], raw: RawFolder
) -> tuple[str, ...]:
    """One line per fault of the cases' ids and files."""
    listing = listing_of(header)
    where = f"{raw.header}: {listing}" if listing else str(raw.images("Tr"))
    faults: list[tuple[str, str]] = []
    for case, (paths, labels) in files.items():
        if is_plain_name(case):
            faults += [(case, line) for line in faults_of_files(case, paths, labels, channels, optional)]
        else:
            line = (
                f"{where}: {case[:MAX_ID_BYTES]!r} cannot be a case id: expected one plain file name of at most "
                f"{MAX_ID_BYTES} bytes in UTF-8, without slashes, control characters or a leading dot. Rename it."
            )
            faults.append((case, line))
    return merged(faults)


def _never_there(files: Files, channels: Sequence[str], source: str) -> list[str]:
    """A line for each channel that no case has: there is nothing to learn from it."""
    there = {number for paths, _ in files.values() for number, path in enumerate(paths) if path is not None}
    whole = any(len(paths) == 1 for paths, _ in files.values())  # one file with all channels
    return [
        f"{source}: optional_channels: no case has {name}. Add its files, or remove it from channel_names."
        for number, name in enumerate(channels)
        if files and number not in there and not whole
    ]


def _unread(raw: RawFolder, header: DatasetHeader) -> list[str]:
    """Notes on files that are not read. If `dataset.json` lists the files, other files are allowed: no notes."""
    if listing_of(header):
        return []
    folders = (raw.images("Tr"), raw.labels("Tr"))
    return [note for folder in folders for note in unread(folder, names_in(folder))]


def _notes(raw: RawFolder, header: DatasetHeader, cases: int) -> list[str]:
    """Notes on possible mistakes that do not stop planning."""
    notes, declared = _unread(raw, header), header.numTraining
    if declared is not None and declared != cases and str(declared) != str(cases):
        notes.append(
            f"{raw.header}: numTraining is {str(declared)[:40]}, but {cases} training cases were found. Check that "
            "no file is missing."
        )
    return notes


def _rater_notes(raw: RawFolder, header: DatasetHeader, cases: Sequence[Case]) -> list[str]:
    """Notes on cases with several references. Names that `dataset.json` lists may be any."""
    place = raw.header if listing_of(header) else raw.labels("Tr")
    return rater_notes(place, {case.id: [split_ending(path.name)[0] for path in case.references] for case in cases})


def is_plain_name(case: str) -> bool:
    """Whether an id is one plain file name, without a path. Files are written and deleted under the id."""
    try:
        size = len(case.encode())
    except UnicodeEncodeError:  # a file name with bytes that are not UTF-8
        return False
    return 0 < size <= MAX_ID_BYTES and case.isprintable() and not case.startswith(".") and not {*"/\\"} & {*case}


def _plain(case: str) -> str:
    if case and not is_plain_name(case):
        raise ValueError("expected the id of a case, a plain file name")
    return case


CaseId = Annotated[str, AfterValidator(_plain)]
"""The id of a case in a record, under which files are written and deleted. It may be empty, but is not a path."""


def _test_cases(folder: Path, channels: Sequence[str], ending: str) -> set[str]:
    """The ids of the test cases whose files are complete. Training does not need the others."""
    raw = RawFolder(folder)
    images = raw.images("Ts")
    ignored: list[str] = []  # training does not need test cases
    stems = by_stem(images, names_in(images), ignored)
    labels = by_stem(raw.labels("Ts"), names_in(raw.labels("Ts")), ignored)
    labels |= {rater_of(stem)[0]: name for stem, name in labels.items()}
    files = group_images(images, stems, labels, channels, ending, ignored)
    return {
        case
        for case, paths in files.items()
        if all(path is not None and path.is_file() for path in paths) and len(paths) in (1, len(channels))
    }
