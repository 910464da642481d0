"""Fingerprinting: every training case is opened once, checked, and measured.

A case that cannot be used gives one line a fault, and all broken cases are reported together.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from plans.dataset import Case, Dataset
from plans.errors import UserError, listed
from plans.fingerprint import CaseFingerprint, Fingerprint
from plans.layout import PreprocessedFolder
from plans.plan import LabelPlan
from plans.regions import values_of
from plans.rules import scheme_of
from textdiffseg.execution import run_cases
from textdiffseg.files import hash_each, hash_text, write_record
from textdiffseg.imaging.sources.files import files_of
from textdiffseg.imaging.volume import Volume, describe, to_canonical
from textdiffseg.preprocessing.case import IGNORED, nonzero_box, number_labels
from textdiffseg.preprocessing.structures import measure_labels

METHOD = 5  # raised when a fingerprint changes its meaning
SAMPLES, CT_SAMPLES = 500, 2000  # foreground voxels a case and channel: percentiles of a few CT need more of them

Read = TypeVar("Read")


def fingerprint_dataset(
    dataset: Dataset,
    workers: int,
    folder: PreprocessedFolder | None = None,
    scheduler: str | None = None,
    progress: Callable[[Iterable[CaseFingerprint]], Iterable[CaseFingerprint]] = iter,
) -> Fingerprint:
    """Fingerprint all training cases.

    With `folder`, each case's fingerprint is written there as soon as it is measured. One that is there already is
    read again where the case's files and labels are unchanged. Those of cases that are gone are removed. Raises
    `UserError` with the faults of all broken cases.
    """
    function = partial(_read_or_measure, labels=dataset.labels, channels=dataset.channels, folder=folder)
    names = [case.id for case in dataset.cases]
    cases = tuple(progress(run_cases(function, dataset.cases, names, workers, scheduler)))
    if folder is not None:
        _remove_others(folder, names)
    return Fingerprint(dataset=dataset.name, cases=cases)


def bytes_per_case(dataset: Dataset) -> float:
    """Host memory that fingerprinting the largest case may take, guessed from the sizes of the files."""
    packed = 24 if dataset.file_ending.endswith(".gz") else 8
    return packed * max(sum(path.stat().st_size for path in case.images) for case in dataset.cases)


def fingerprint_case(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> CaseFingerprint:
    """Read, check and measure one case. `UserError` has one line for each fault found."""
    volume, numbers = read_case(case, labels, channels)
    image, orientation = to_canonical(volume)
    numbers = orientation.apply(numbers)
    spacing = image.geometry.spacing
    return CaseFingerprint(
        case=case.id,
        shape=image.geometry.shape,
        spacing=spacing,
        cropped_shape=tuple(end - start for start, end in nonzero_box(image.array)),
        intensities=_foreground_samples(image.array, numbers, channels, case.id),
        labels=measure_labels(numbers, spacing, case.annotation.regions),
        content_hash=fingerprint_hash(case, labels, channels),
        notes=volume.notes,
    )


def read_case(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> tuple[Volume, np.ndarray]:
    """A checked case: the image as a `Volume`, and label numbers (D, H, W), -1 ignored, on the same grid.

    `UserError` names each fault: an unreadable file, a wrong number of channels, other voxels than finite ones,
    grids that differ, values that mean nothing or contradict what the case is said to hold.
    """
    from textdiffseg.imaging.sources import files  # SimpleITK is needed where a scan is read, and there alone

    faults: list[str] = []
    volume = _tried(partial(files.read_volume, case.images), faults)
    label = _tried(partial(files.read_labels, case.label), faults)
    if volume is not None and len(volume.array) != len(channels):
        found = " + ".join(str(path) for path in case.images)
        faults.append(
            f"case {case.id}: {found}: {len(volume.array)} channels, but dataset.json names {len(channels)} "
            f"({', '.join(channels)}). Mend the image or channel_names."
        )
    if volume is not None and label is not None and not volume.geometry.matches(label.geometry):
        faults.append(
            f"case {case.id}: the label's grid ({describe(label.geometry)}) differs from the image's "
            f"({describe(volume.geometry)}). Resample the label {case.label} to the image."
        )
    numbers = None if label is None else _numbered(label.array[0], case, [one.name for one in labels], faults)
    if faults or volume is None or numbers is None:
        raise UserError(*faults)
    return volume, numbers


def _numbered(array: np.ndarray, case: Case, names: Sequence[str], faults: list[str]) -> np.ndarray:
    """Label numbers of a file's values; `faults` gets what its annotation does not allow."""
    annotation = case.annotation
    ignored = {} if annotation.ignore is None else {annotation.ignore: IGNORED}
    values = {name: held if isinstance(held, tuple) else (held,) for name, held in annotation.values.items()}
    if annotation.regions is None:
        numbers_of = {value: names.index(name) + 1 for name, (value,) in values.items()}
    else:
        numbers_of = {value: number for number, value in enumerate(values_of(annotation.regions), start=1)}
    numbers, unknown = number_labels(array, numbers_of | ignored)
    if unknown:
        known = ", ".join(str(value) for value in (0, *numbers_of, *ignored))
        faults.append(
            f"case {case.id}: {case.label}: unknown label values {listed(unknown)}; "
            f"dataset.json has {known}. Name them there or mend the label."
        )
    looked_for = {name for name in annotation.annotated if name not in annotation.absent}
    expected = {value for name in looked_for for value in values[name]}
    for name, held in values.items():
        if name in looked_for:
            continue
        said = "is declared absent" if name in annotation.absent else "is not named as annotated"
        against = held if name in annotation.absent else set(held) - expected  # it may share voxels with one looked for
        if found := [value for value in against if (numbers == numbers_of[value]).any()]:
            told = ", ".join(str(value) for value in sorted(found))
            faults.append(
                f"case {case.id}: {case.label}: has voxels of {name!r} (value {told}), which {said} in this "
                "case. Mend dataset.json or the label."
            )
    return numbers


def content_hash(paths: Sequence[Path]) -> str:
    """A hash of what is in the files, in their order, and in those that hold a header's voxels."""
    return hash_each(list(chain.from_iterable(files_of(Path(path)) for path in paths)))


def fingerprint_hash(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> str:
    """A hash of all that a case's fingerprint depends on: its files, the labels and the channels."""
    names, files = [label.name for label in labels], content_hash((*case.images, case.label))
    text = f"{METHOD} {names} {case.annotation.model_dump_json()} {list(channels)} {files}"
    return hash_text(text)


def _read_or_measure(
    case: Case, labels: Sequence[LabelPlan], channels: Sequence[str], folder: PreprocessedFolder | None
) -> CaseFingerprint:
    """The stored fingerprint of a case where it fits the files; else a new one, which is stored."""
    if folder is None:
        return fingerprint_case(case, labels, channels)
    path = folder.fingerprint(case.id)
    with suppress(UserError):  # missing, damaged or of another version: it is measured again
        known = CaseFingerprint.read(path)
        if known.case == case.id and known.content_hash == fingerprint_hash(case, labels, channels):
            return known
    measured = fingerprint_case(case, labels, channels)
    write_record(path, measured)
    return measured


def _remove_others(folder: PreprocessedFolder, names: Sequence[str]) -> None:
    """Delete the fingerprints of cases that are gone."""
    kept = {folder.fingerprint(name) for name in names}
    for path in folder.fingerprints.glob("[!.]*.json"):
        if path not in kept:
            path.unlink(missing_ok=True)


def _tried(read: Callable[[], Read], faults: list[str]) -> Read | None:
    """The result of `read`, or None and its faults."""
    try:
        return read()
    except UserError as error:
        faults += error.lines
        return None


def _foreground_samples(
    image: np.ndarray, numbers: np.ndarray, channels: Sequence[str], case: str
) -> tuple[tuple[float, ...], ...]:
    """Per channel, intensities at `SAMPLES` random foreground voxels, `CT_SAMPLES` of CT, or all that there are."""
    places = np.flatnonzero(numbers > 0)
    most = CT_SAMPLES if "ct" in map(scheme_of, channels) else SAMPLES
    if len(places) > most:
        places = np.random.default_rng([*case.encode()]).choice(places, most, replace=False)
    index = np.unravel_index(places, numbers.shape)
    return tuple(tuple(float(f"{value:.6g}") for value in channel[index]) for channel in image)
