"""`Dataset`: `dataset.json` and the cases found on disk, validated. No image is opened here."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from pydantic import Field

from plans.annotation import Annotation, annotations_of
from plans.case_files import by_stem, faults_of_files, group_images, names_in, unread
from plans.errors import UserError, merged
from plans.header import DatasetHeader, LabelTable, channels_of, file_ending_of, labels_of
from plans.layout import RawFolder
from plans.plan import LabelPlan
from plans.records import Record
from plans.regions import Regions
from plans.texts import find_texts

Files = dict[str, tuple[tuple[Path, ...], Path]]
"""Of each case its images, one a channel or all in one, and its label."""

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
    declared: bool = False  # `annotated` of dataset.json names this case, and so which labels were looked for
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
    notes: tuple[str, ...] = ()  # sentences on what may be a mistake

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
    ending = file_ending_of(header, names_in(raw.images("Tr")), source, faults)
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
        notes=tuple(_notes(raw, header, len(cases))),
    )


def _training_cases(
    folder: Path, header: DatasetHeader, channels: Sequence[str], table: LabelTable, ending: str, faults: list[str]
) -> tuple[Case, ...]:
    raw = RawFolder(folder)
    images = raw.images("Tr")
    groups = {case: str(group) for case, group in (header.group or {}).items()}
    if header.dataset is not None:
        files = _listed_files(folder, header.dataset, faults)
    elif not images.is_dir():
        faults.append(f"{images} does not exist. Put the training images there, e.g. CASE_0000{ending}.")
        return ()
    else:
        files = _found_files(raw, header.listed_images, channels, ending, faults)
    if not files and not faults:
        faults.append(f"{images} holds no file ending with {ending}. Put the training images there.")
    faults += _refused_cases(files, header, channels, raw)
    faults += merged((case, f"{raw.header}: group.{case}: no such case.") for case in sorted({*groups} - {*files}))
    if faults:
        faults += _unread(raw, header)
    held_out = _test_cases(folder, channels, ending) - set(files)
    annotations = annotations_of(header, table, tuple(files), held_out, str(raw.header), faults)
    texts = find_texts(raw.texts, files, held_out, faults)
    declared = {*header.annotated} if isinstance(header.annotated, dict) else {*files} if header.annotated else set()
    return tuple(
        Case(
            id=case,
            images=paths,
            label=label,
            group=groups.get(case),
            annotation=annotations[case],
            declared=case in declared,
            text=texts.get(case),
        )
        for case, (paths, label) in sorted(files.items())
    )


def _found_files(
    raw: RawFolder, listed_images: list[str], channels: Sequence[str], ending: str, faults: list[str]
) -> Files:
    """The files of each case, by the names in imagesTr and labelsTr; the endings of a data set may be mixed."""
    images, labels = raw.images("Tr"), raw.labels("Tr")
    there = by_stem(labels, names_in(labels), faults)
    found = by_stem(images, listed_images, []) | by_stem(images, names_in(images), faults)
    cases = group_images(images, found, there, channels, ending, faults)
    faults += merged(
        (stem, f"{labels / name} has no image in {images}. Add the image or remove the label.")
        for stem, name in there.items()
        if stem not in cases
    )
    return {case: (paths, labels / there.get(case, f"{case}{ending}")) for case, paths in cases.items()}


def _refused_cases(files: Files, header: DatasetHeader, channels: Sequence[str], raw: RawFolder) -> tuple[str, ...]:
    """The faults of the cases' names and files."""
    where = f"{raw.header}: dataset" if header.dataset is not None else str(raw.images("Tr"))
    faults: list[tuple[str, str]] = []
    for case, (paths, label) in files.items():
        if is_plain_name(case):
            faults += [(case, line) for line in faults_of_files(case, paths, label, channels)]
        else:
            line = (
                f"{where}: {case[:MAX_ID_BYTES]!r} cannot be a case id: expected one plain file name of at most "
                f"{MAX_ID_BYTES} bytes in UTF-8, without slashes, control characters or a leading dot. Rename it."
            )
            faults.append((case, line))
    return merged(faults)


def _unread(raw: RawFolder, header: DatasetHeader) -> list[str]:
    """Sentences on files that are not read; where `dataset.json` lists the files, others may lie there."""
    if header.dataset is not None:
        return []
    folders = (raw.images("Tr"), raw.labels("Tr"))
    return [note for folder in folders for note in unread(folder, names_in(folder))]


def _notes(raw: RawFolder, header: DatasetHeader, cases: int) -> list[str]:
    """Sentences on what does not stop planning but may be a mistake."""
    notes, declared = _unread(raw, header), header.numTraining
    if declared is not None and declared != cases and str(declared) != str(cases):
        notes.append(
            f"{raw.header}: numTraining is {str(declared)[:40]}, and {cases} training cases were found. Check that "
            "no file is missing."
        )
    return notes


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
    others: list[str] = []  # faults there concern no training
    found = by_stem(images, names_in(images), others)
    labels = by_stem(raw.labels("Ts"), names_in(raw.labels("Ts")), others)
    files = group_images(images, found, labels, channels, ending, others)
    return {
        case
        for case, paths in files.items()
        if all(path.is_file() for path in paths) and len(paths) in (1, len(channels))
    }


def _listed_files(folder: Path, entries: Mapping[str, dict[str, Any]], faults: list[str]) -> Files:
    files: Files = {}
    for case, entry in entries.items():
        images, label = entry.get("images"), entry.get("label")
        if not isinstance(images, list) or not images or not isinstance(label, str):
            faults.append(f"{RawFolder(folder).header}: dataset.{case}: expected images (a list) and label (a path).")
        else:
            paths = [folder / PureWindowsPath(str(path)).as_posix() for path in (*images, label)]
            files[case] = (tuple(paths[:-1]), paths[-1])
    return files
