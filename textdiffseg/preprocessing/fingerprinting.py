"""Fingerprints: every training case is read once, checked and measured.

All faulty cases are reported together, with one line for each fault.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.ndimage import find_objects

from plans.errors import UserError, listed
from plans.fingerprint import LABELS_OUTSIDE_CROP, CaseFingerprint, Fingerprint, LabelFingerprint
from plans.geometry import Millimetres
from plans.layout import PreprocessedFolder
from plans.plan import LabelPlan
from plans.planning.rules import crop_of, scheme_of
from plans.raw.annotation import Annotation
from plans.raw.dataset import Case, Dataset
from plans.regions import Regions, values_of
from textdiffseg.execution import run_cases
from textdiffseg.files import hash_each, hash_text, write_record
from textdiffseg.imaging.sources.files import files_of
from textdiffseg.imaging.volume import Volume, describe, grid_advice, notes_on_channels, to_canonical
from textdiffseg.masks import values_of_key
from textdiffseg.preprocessing.case import IGNORED, number_labels
from textdiffseg.preprocessing.crop import crop_box, with_labels
from textdiffseg.preprocessing.structures import measure_labels

FINGERPRINT_VERSION = 7  # increased when the meaning of a fingerprint changes
SAMPLES, CT_SAMPLES = 500, 2000  # foreground voxels per case and channel; CT needs more for its percentiles

Read = TypeVar("Read")


def fingerprint_dataset(
    dataset: Dataset,
    workers: int,
    folder: PreprocessedFolder | None = None,
    scheduler: str | None = None,
    progress: Callable[[Iterable[CaseFingerprint]], Iterable[CaseFingerprint]] = iter,
) -> Fingerprint:
    """The fingerprint of a data set: the fingerprints of all its training cases.

    With `folder`, each fingerprint is written there as soon as it is measured. An existing one is reused if the
    case's files and labels are unchanged. Fingerprints of removed cases are deleted.

    Args:
        dataset: the raw data set.
        workers: processes; 0 works in this process.
        folder: where fingerprints are kept.
        scheduler: address of a Dask scheduler.
        progress: wraps the iterator of fingerprints, e.g. to report them.

    Raises:
        UserError: a line for each fault of all faulty cases.
    """
    function = partial(_read_or_measure, labels=dataset.labels, channels=dataset.channels, folder=folder)
    names = [case.id for case in dataset.cases]
    cases = tuple(progress(run_cases(function, dataset.cases, names, workers, scheduler)))
    if folder is not None:
        _remove_others(folder, names)
    return Fingerprint(dataset=dataset.name, cases=cases)


def bytes_per_case(dataset: Dataset) -> float:
    """The host memory in bytes that the largest case may need, estimated from the sizes of its files."""

    def unpacked(path: Path) -> float:
        size = sum(file.stat().st_size for file in files_of(path))
        return size * (8.0 if path.suffix.lower() in (".nii", ".img", ".hdr") else 24.0)  # others may be compressed

    return max(sum(map(unpacked, (*case.images, *case.references))) for case in dataset.cases)


def fingerprint_case(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> CaseFingerprint:
    """The fingerprint of one case. Raises `UserError` with a line for each fault."""
    volume, references = read_case(case, labels, channels)
    image, orientation = to_canonical(volume)
    references = tuple(orientation.apply(numbers) for numbers in references)
    spacing, crop = image.geometry.spacing, crop_of(channels)
    shown = image.array[image.first_channel :]  # missing channels are 0
    usual = crop_box(shown, spacing, crop)
    box = with_labels(usual, joint_labels(references))
    notes = (*volume.notes, *notes_on_channels(volume, channels))
    return CaseFingerprint(
        case=case.id,
        shape=image.geometry.shape,
        spacing=spacing,
        cropped_shape=tuple(end - start for start, end in box),
        intensities=_foreground_samples(image, references, channels, case.id),
        labels=_measured(references, spacing, case.annotation.regions),
        content_hash=fingerprint_hash(case, labels, channels),
        notes=(*notes, LABELS_OUTSIDE_CROP) if box != usual else notes,
    )


def joint_labels(references: Sequence[np.ndarray]) -> np.ndarray:
    """A label map (D, H, W) with a label wherever one of the references has one. A single reference is not copied."""
    return references[0] if len(references) == 1 else np.maximum.reduce(references)


def read_case(
    case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]
) -> tuple[Volume, tuple[np.ndarray, ...]]:
    """A checked case: the image, and on the same grid label numbers (D, H, W), -1 ignored, of each reference.

    Raises `UserError` with a line for each fault: an unreadable file, a wrong number of channels, voxels that are not
    finite, different grids, unknown label values, values that contradict the case's annotation.
    """
    from textdiffseg.imaging.sources import files  # SimpleITK is only needed to read a scan

    faults: list[str] = []
    volume = _tried(partial(files.read_volume, case.images, one_grid=True, missing=case.missing), faults)
    if volume is not None and len(volume.array) != len(channels):
        files_text = " + ".join(str(path) for path in case.images)
        faults.append(
            f"case {case.id}: {files_text}: {len(volume.array)} channels, but dataset.json names {len(channels)} "
            f"({', '.join(channels)}). Correct the image or channel_names."
        )
    names = [label.name for label in labels]
    references = [_read_reference(path, case, volume, names, faults) for path in case.references]
    if faults or volume is None:
        raise UserError(*faults)
    return volume, tuple(numbers for numbers in references if numbers is not None)


def _read_reference(
    path: Path, case: Case, volume: Volume | None, names: Sequence[str], faults: list[str]
) -> np.ndarray | None:
    """The label numbers of one label file. `faults` receives a line per fault; None: it cannot be read."""
    from textdiffseg.imaging.sources import files

    label = _tried(partial(files.read_labels, path), faults)
    if label is None:
        return None
    if volume is not None and not volume.geometry.matches(label.geometry):
        faults.append(
            f"case {case.id}: {path}: the mask's grid ({describe(label.geometry)}) differs from the scan's "
            f"({describe(volume.geometry)}). {grid_advice(label.geometry, volume.geometry)}"
        )
    numbers_of = _numbers_of_values(case.annotation, names)
    ignored = {} if case.annotation.ignore is None else {case.annotation.ignore: IGNORED}
    numbers, unknown = number_labels(label.array[0], numbers_of | ignored)
    if unknown:
        known = ", ".join(str(value) for value in (0, *numbers_of, *ignored))
        faults.append(
            f"case {case.id}: {path}: unknown label values {listed(unknown)}; "
            f"dataset.json has {known}. Name them there or correct the label."
        )
    faults += [f"case {case.id}: {path}: {fault}" for fault in _contradictions(numbers, numbers_of, case.annotation)]
    return numbers


def _values_by_name(annotation: Annotation) -> dict[str, tuple[int, ...]]:
    """The values of each label in a label file. A label that overlaps with others may have several."""
    return {name: values_of_key(value) for name, value in annotation.values.items()}


def _numbers_of_values(annotation: Annotation, names: Sequence[str]) -> dict[int, int]:
    """The number in a label map of each value in a label file. `names`: of all labels, in label order."""
    if annotation.regions is None:
        return {value: names.index(name) + 1 for name, (value,) in _values_by_name(annotation).items()}
    return {value: number for number, value in enumerate(values_of(annotation.regions), start=1)}


def _contradictions(numbers: np.ndarray, numbers_of: Mapping[int, int], annotation: Annotation) -> Iterator[str]:
    """A line for each label that has voxels in a label map, although it is absent or not annotated.

    Args:
        numbers: the label map (D, H, W).
        numbers_of: value in the label file -> number in the label map.
        annotation: of the case.
    """
    values = _values_by_name(annotation)
    allowed_names = {name for name in annotation.annotated if name not in annotation.absent}
    allowed_values = {value for name in allowed_names for value in values[name]}
    others = [name for name in values if name not in allowed_names]
    boxes = find_objects(numbers) if others else []
    present = {number for number, box in enumerate(boxes, start=1) if box is not None}
    for name in others:
        absent = name in annotation.absent
        status = "is declared absent" if absent else "is not named as annotated"
        # A label that is not annotated may share voxels with an annotated one.
        forbidden = values[name] if absent else {*values[name]} - allowed_values
        drawn = sorted(value for value in forbidden if numbers_of[value] in present)
        if drawn:
            listing = ", ".join(map(str, drawn))
            yield (
                f"has voxels of {name!r} (value {listing}), which {status} in this case. Correct dataset.json or the "
                "label."
            )


def content_hash(paths: Sequence[Path]) -> str:
    """A hash of the contents of the files in their order, including data files that belong to header files."""
    return hash_each(list(chain.from_iterable(files_of(Path(path)) for path in paths)))


def fingerprint_hash(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> str:
    """A hash of everything that a case's fingerprint depends on: its files, the labels and the channels."""
    names, files = [label.name for label in labels], content_hash((*case.images, *case.references))
    text = f"{FINGERPRINT_VERSION} {names} {case.annotation.model_dump_json()} {list(channels)} {files}{case.lacking}"
    return hash_text(text)


def _read_or_measure(
    case: Case, labels: Sequence[LabelPlan], channels: Sequence[str], folder: PreprocessedFolder | None
) -> CaseFingerprint:
    """The stored fingerprint of a case if its files are unchanged, else a new one, which is then stored."""
    if folder is None:
        return fingerprint_case(case, labels, channels)
    path = folder.fingerprint(case.id)
    with suppress(UserError):  # if it is missing, damaged or of another version, it is measured again
        stored = CaseFingerprint.read(path)
        if stored.case == case.id and stored.content_hash == fingerprint_hash(case, labels, channels):
            return stored
    measured = fingerprint_case(case, labels, channels)
    write_record(path, measured)
    return measured


def _remove_others(folder: PreprocessedFolder, names: Sequence[str]) -> None:
    """Delete the fingerprints of cases that are not in `names`. Other files are the user's."""
    kept = {folder.fingerprint(name) for name in names}
    for path in folder.fingerprints.glob("[!.]*.json"):
        with suppress(UserError):
            if path not in kept and CaseFingerprint.read(path).case == path.stem:
                path.unlink(missing_ok=True)


def _tried(read: Callable[[], Read], faults: list[str]) -> Read | None:
    """The result of `read`. A `UserError` is added to `faults`, and the result is None."""
    try:
        return read()
    except UserError as error:
        faults += error.lines
        return None


def _measured(
    references: Sequence[np.ndarray], spacing: Millimetres, regions: Regions | None
) -> tuple[LabelFingerprint, ...]:
    """The measurements of each label, in the first reference that contains it."""
    by_label: dict[int, LabelFingerprint] = {}
    for numbers in references:
        for measurement in measure_labels(numbers, spacing, regions):
            by_label.setdefault(measurement.label, measurement)
    return tuple(by_label[label] for label in sorted(by_label))


def _foreground_samples(
    image: Volume, references: Sequence[np.ndarray], channels: Sequence[str], case: str
) -> tuple[tuple[float, ...], ...]:
    """For each channel, intensities at random foreground voxels: at most `SAMPLES`, for CT `CT_SAMPLES`.

    Foreground is what any reference labels. A missing channel has none.
    """
    voxels = np.flatnonzero(np.logical_or.reduce([numbers > 0 for numbers in references]))
    most = CT_SAMPLES if "ct" in map(scheme_of, channels) else SAMPLES
    if len(voxels) > most:
        voxels = np.random.default_rng([*case.encode()]).choice(voxels, most, replace=False)
    index = np.unravel_index(voxels, image.geometry.shape)
    return tuple(
        () if number in image.missing else tuple(float(f"{value:.6g}") for value in channel[index])
        for number, channel in enumerate(image.array)
    )
