"""Make a data set from a folder of scans and a folder of masks, or from a list of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plans.choices import MISSING, Missing
from plans.errors import UserError, listed, merged
from plans.layout import RawFolder
from plans.names import normalise
from plans.raw.case_files import owner_of_channel
from plans.raw.dataset import Dataset, dataset_of, read_dataset
from plans.raw.gaps import LabelGap, annotated_labels, gaps_of
from plans.raw.header import BACKGROUND, IGNORE, DatasetHeader
from plans.raw.label_names import named_labels, numbered_names
from textdiffseg.arguments import check_choice, path_of, several, whole
from textdiffseg.files import write_atomically
from textdiffseg.leftovers import sweep
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.tasks.new.again import differences, sources_of
from textdiffseg.tasks.new.binary import with_one_value
from textdiffseg.tasks.new.cases import TakenCase, remove, take_case
from textdiffseg.tasks.new.folder import NewHeader, Written, choose_folder
from textdiffseg.tasks.new.look import channel_count, draw_first_cases, guess_channels, usual_ending
from textdiffseg.tasks.new.sources import Sources
from textdiffseg.tasks.new.structures import structure_names, unheld


@dataclass(frozen=True)
class NewDataset:
    """A data set that was made from scans and masks."""

    root: Path
    dataset: Dataset
    made: bool  # False: it was there already
    labels: tuple[LabelGap, ...] = ()
    sources: Sources | None = None  # also files without a partner; None: not read again
    left_out: tuple[str, ...] = ()  # lines on cases with a fault
    pictures: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    guessed: bool = False  # the channels


def new_dataset(
    images: str | Path,
    masks: str | Path | None = None,
    *,
    root: str | Path = ".",
    folder: str | Path | None = None,
    name: str | None = None,
    number: int | None = None,
    labels: Sequence[str] | Mapping[str, int] = (),
    channels: str | Sequence[str] = (),
    missing: Missing = "auto",
    overwrite: bool = False,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> NewDataset:
    """The data set of scans and masks, in nnU-Net's format. It holds links to the files.

    DICOM, and headers of NRRD and MetaImage whose voxels lie in another file, are converted to NIfTI.

    Args:
        images: a folder of scans, or a CSV file with the columns case, image and mask.
        masks: a folder of masks: label maps, DICOM segmentations, or structure sets.
        folder: of the data set; None: root/raw/Dataset001_NAME.
        name: of the data set; None: from the folder of the scans.
        number: of the data set; None: the first free one.
        labels: {"liver": 1}, `liver=1`, ..., or a JSON file; without: `label 1`, ..., or the names of structures.
        channels: the names of the channels; without: guessed from the intensities.
        missing: what it means that a mask lacks a label (`plans.raw.gaps`).
        overwrite: make a data set again that was made from the same files.

    Cases with a fault are left out. Raises `UserError` if none is left, or if the data set's folder is in use.
    """
    check_choice("missing", missing, MISSING)
    number = None if number is None else whole("number", number, 1)
    root, source = path_of(root), path_of(images)
    if masks is None and source.suffix.lower() != ".csv":
        raise UserError(f"{source}: give the folder of the masks, too, or one CSV file that lists scans and masks.")
    header = NewHeader(source, None if masks is None else path_of(masks))
    given = named_labels(labels if isinstance(labels, Mapping) else several(labels)) if labels else {}
    raw, ready = choose_folder(header, root, None if folder is None else path_of(folder), name, number, overwrite)
    if ready:
        dataset = read_dataset(raw.path)
        return NewDataset(root, dataset, False, notes=differences(header, dataset, given, several(channels), missing))
    written = Written(raw)
    with written.replacing():
        made = _make(header, raw, written, given, several(channels), missing, report, progress, cancel)
    return replace(made, root=root)


def _make(
    header: NewHeader,
    raw: RawFolder,
    written: Written,
    given: Mapping[str, int],
    channels: tuple[str, ...],
    missing: Missing,
    report: Report,
    progress: OnProgress,
    cancel: Cancel,
) -> NewDataset:
    """The data set in the chosen folder. Its `dataset.json` is written last: an interrupted run is repeated."""
    sources = sources_of(header)
    report(f"{len(sources.cases)} scans with a mask.")
    structures = given or _structures(sources)
    taken, left_out = _take(sources, raw, written, structures, progress, cancel)
    taken = with_one_value(taken, given.values())
    names = _names(given, structures, taken)
    gaps, annotated = _gaps(names, taken, missing)
    taken = _without_blank(taken, annotated, left_out)
    gaps, annotated = _gaps(names, taken, missing)
    kinds = guess_channels(taken)
    if channels and len(channels) != len(kinds):
        raise UserError(f"channels: {len(channels)} are named ({', '.join(channels)}), but scans have {len(kinds)}.")
    kinds = channels or kinds
    content = header.content(
        raw.path,
        [path for case in taken for path in (*case.images, case.label)],
        channel_names={str(place): kind for place, kind in enumerate(kinds)},
        labels={BACKGROUND: 0, **names},
        numTraining=len(taken),
        file_ending=usual_ending(taken),
        annotated={case: known for case, known in annotated.items() if known},
    )
    dataset = dataset_of(raw.path, DatasetHeader.parse_json(content, str(raw.header)))
    pictures, notes = draw_first_cases(taken, names, raw, kinds)
    notes = (*unheld(gaps, sources, [name for name in structures if name not in names]), *_case_notes(taken), *notes)
    write_atomically(raw.header, content)
    written.forget()
    return NewDataset(Path(), dataset, True, gaps, sources, tuple(left_out), pictures, notes, not channels)


def _structures(sources: Sources) -> dict[str, int]:
    """The values of structures that have names. Raises `UserError` if some masks are label maps, which have none."""
    joined = [source for source in sources.cases if source.is_joined]
    if joined and len(joined) < len(sources.cases):
        raise UserError(
            "Some masks are structures with names, others are label maps with values. Connect both with --labels "
            "NAME=VALUE ..."
        )
    names = (name for source in joined for name in structure_names(source))
    return numbered_names(name for name in names if normalise(name) != BACKGROUND)  # it is what no structure holds


def _case_notes(taken: Sequence[TakenCase]) -> tuple[str, ...]:
    """The notes on the cases, each with the names of its cases."""
    cases: dict[str, list[str]] = {}
    for case in taken:
        for note in dict.fromkeys(case.notes):
            cases.setdefault(note, []).append(case.case)
    return tuple(f"{note} Cases: {listed(names)}." for note, names in cases.items())


def _take(
    sources: Sources,
    raw: RawFolder,
    written: Written,
    structures: Mapping[str, int],
    progress: OnProgress,
    cancel: Cancel,
) -> tuple[list[TakenCase], list[str]]:
    """The cases, and lines on those that have a fault."""
    sweep((raw.images("Tr"), raw.labels("Tr")))
    values = {normalise(name): value for name, value in structures.items()}
    counts = [len(source.images) for source in sources.cases]
    usual = max(set(counts), key=counts.count)
    in_one_file = usual == 1 and channel_count(sources.cases) > 1
    taken: list[TakenCase] = []
    faults: list[tuple[str, str]] = []
    total, cases = len(sources.cases), {source.case for source in sources.cases}
    progress(ProgressEvent("Read the masks", 0, total, "case"))
    for done, source in enumerate(sources.cases, start=1):
        try:
            if len(source.images) != usual:
                raise UserError(f"case {source.case}: {len(source.images)} channels, where most cases have {usual}.")
            if owner := owner_of_channel(source.case, cases, usual):
                raise UserError(f"case {source.case}: it would be a channel of case {owner}. Rename its files.")
            written.add(source.case, len(source.images), (*source.images, source.mask))
            taken.append(take_case(source, raw, values, in_one_file))
        except UserError as error:
            faults += [(source.case, line) for line in error.naming(source.case)]
        progress(ProgressEvent("Read the masks", done, total, "case", source.case))
        if cancel():
            raise Cancelled(f"Read the masks: stopped after {done} of {total} cases")
    if not taken:
        raise UserError(*merged(faults), "No case is left. If scans and masks are exchanged, swap them.")
    return taken, list(merged(faults))


def _names(given: Mapping[str, int], structures: Mapping[str, int], taken: Sequence[TakenCase]) -> dict[str, int]:
    """The labels by value: those of the user, structures that a mask holds, and `label 3` for any other value."""
    present = sorted({value for case in taken for value, volume in case.volumes.items() if volume})
    if given and not present:
        raise UserError(
            "No mask holds one of --labels. Name the values or structures that the masks hold.", *_case_notes(taken)
        )
    names = dict(given) or {name: value for name, value in structures.items() if value in present}
    names |= {f"label {value}": value for value in present if value not in names.values()}
    if not names:
        raise UserError(
            "All masks are empty: no voxel has a value above 0. Check that the second folder holds masks.",
            *_case_notes(taken),
        )
    return dict(sorted(names.items(), key=lambda item: item[1]))


def _gaps(
    names: Mapping[str, int], taken: Sequence[TakenCase], missing: Missing
) -> tuple[tuple[LabelGap, ...], dict[str, tuple[str, ...]]]:
    labels = {name: value for name, value in names.items() if name.casefold() != IGNORE}
    volumes = {case.case: case.volumes for case in taken}
    gaps = gaps_of(labels, volumes, missing)
    return gaps, annotated_labels(gaps, volumes)


def _without_blank(
    taken: list[TakenCase], annotated: Mapping[str, Sequence[str]], left_out: list[str]
) -> list[TakenCase]:
    """The cases that were annotated for a label. The files of the others are removed from the data set."""
    kept = []
    for case in taken:
        if annotated.get(case.case) != ():
            kept.append(case)
            continue
        left_out.append(f"case {case.case}: its mask is empty. If nothing is there to be drawn, give --missing absent.")
        for path in (*case.images, case.label):
            remove(path)
    if not kept:
        raise UserError(*left_out)
    return kept
