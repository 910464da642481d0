"""Fingerprinting: every training case is opened once, checked, and measured.

A case that cannot be used gives one line a fault, and all broken cases are reported together.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from scipy import ndimage

from plans.dataset import Case, Dataset
from plans.errors import UserError, listed
from plans.fingerprint import CaseFingerprint, Fingerprint, LabelFingerprint
from plans.plan import LabelPlan
from plans.records import Millimetres
from plans.regions import Regions, numbered, values_of
from textdiffseg.execution import run_cases
from textdiffseg.imaging.volume import Volume, files_of, to_canonical
from textdiffseg.preprocessing.case import IGNORED, nonzero_box, number_labels

METHOD = 3  # raised when a fingerprint changes its meaning
WRITTEN_EVERY = 60  # seconds: what a killed process loses at most
SAMPLES = 500  # foreground voxels a case and channel
_MEASURED = 96  # a structure's box is thinned to about this many voxels a side before distances are taken
_PIECES = 8  # of that size, in which a structure too fine for the thinning is measured in full


def fingerprint_dataset(
    dataset: Dataset,
    workers: int,
    path: Path | None = None,
    scheduler: str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Fingerprint:
    """Fingerprint all training cases.

    With `path`, the fingerprint is written there every minute and whenever the work ends, and cases that
    are there already and whose files and labels are unchanged are not measured again; those that it did not come to
    stay. Raises `UserError` with the faults of all broken cases.
    """
    known = {case.case: case for case in _known_cases(path)}
    function = partial(_fingerprint_known, labels=dataset.labels, channels=dataset.channels)
    items = [(case, known.get(case.id)) for case in dataset.cases]
    names = [case.id for case in dataset.cases]
    cases: list[CaseFingerprint] = []

    def write() -> None:
        done = {case.case for case in cases}
        kept = [known[name] for name in names if name in known and name not in done]
        if path is not None and cases:
            Fingerprint(dataset=dataset.name, cases=(*cases, *kept)).write(path)

    clock = time.monotonic()
    try:
        for case in progress(run_cases(function, items, names, workers, scheduler)):
            cases.append(case)
            if time.monotonic() - clock > WRITTEN_EVERY:
                write()
                clock = time.monotonic()
    finally:
        write()
    return Fingerprint(dataset=dataset.name, cases=tuple(cases))


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
        intensities=_foreground_samples(image.array, numbers, case.id),
        labels=measure_labels(numbers, spacing, case.annotation.regions),
        content_hash=fingerprint_hash(case, labels, channels),
    )


def read_case(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> tuple[Volume, np.ndarray]:
    """A checked case: the image as a `Volume`, and label numbers (D, H, W), -1 ignored, on the same grid.

    `UserError` names each fault: an unreadable file, a wrong number of channels, other voxels than finite ones,
    grids that differ, values that mean nothing or contradict what the case is said to hold.
    """
    from textdiffseg.imaging import io  # SimpleITK is needed where a scan is read, and there alone

    faults: list[str] = []
    volume = _tried(partial(io.read_volume, case.images), faults)
    label = _tried(partial(io.read_labels, case.label), faults)
    if volume is not None and len(volume.array) != len(channels):
        found = " + ".join(str(path) for path in case.images)
        faults.append(
            f"case {case.id}: {found}: {len(volume.array)} channels, but dataset.json names {len(channels)} "
            f"({', '.join(channels)}). Mend the image or channel_names."
        )
    if volume is not None and label is not None and not volume.geometry.matches(label.geometry):
        faults.append(
            f"case {case.id}: the label's grid ({io.describe(label.geometry)}) differs from the image's "
            f"({io.describe(volume.geometry)}). Resample the label {case.label} to the image."
        )
    if label is not None:
        numbers = _numbered(label.array[0], case, [label.name for label in labels], faults)
    if faults:
        raise UserError(*faults)
    return volume, numbers


def _numbered(array: np.ndarray, case: Case, names: Sequence[str], faults: list[str]) -> np.ndarray:
    """Label numbers of a file's values; `faults` gets what its annotation does not allow."""
    annotation = case.annotation
    ignored = {} if annotation.ignore is None else {annotation.ignore: IGNORED}
    if annotation.regions is None:
        values = {name: (value,) for name, value in annotation.values.items()}
        numbers_of = {value: names.index(name) + 1 for name, (value,) in values.items()}
    else:
        values = annotation.values
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


def measure_labels(
    numbers: np.ndarray, spacing: Millimetres, regions: Regions | None = None
) -> tuple[LabelFingerprint, ...]:
    """Volume, thickness and extent of each label present in (D, H, W); of `regions` where labels overlap."""
    boxes = ndimage.find_objects(numbers)
    parts = numbered(regions) if regions else [(number,) for number in range(1, len(boxes) + 1)]
    found = []
    for label, held in enumerate(parts, start=1):
        box = _joint([boxes[number - 1] for number in held if number <= len(boxes)])
        if box is None:
            continue
        mask = np.isin(numbers[box], held) if len(held) > 1 else numbers[box] == held[0]
        voxels = int(np.count_nonzero(mask))
        found.append(
            LabelFingerprint(
                label=label,
                voxels=voxels,
                volume_mm3=voxels * float(np.prod(spacing)),
                thickness_mm=_thickness(mask, spacing),
                extent_mm=tuple(size * step for size, step in zip(mask.shape, spacing, strict=True)),
            )
        )
    return tuple(found)


def _joint(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...] | None:
    """The smallest box that holds all of those that there are."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    axes = zip(*there, strict=True)
    return tuple(slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes)


def content_hash(paths: Sequence[Path]) -> str:
    """A hash of what is in the files, in their order, and in those that hold a header's voxels."""
    digest = hashlib.blake2b(digest_size=16)
    for file_of_scan in chain.from_iterable(files_of(Path(path)) for path in paths):
        with file_of_scan.open("rb") as file:
            digest.update(hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest())
    return digest.hexdigest()


def fingerprint_hash(case: Case, labels: Sequence[LabelPlan], channels: Sequence[str]) -> str:
    """A hash of all that a case's fingerprint depends on: its files, the labels and the channels."""
    names, files = [label.name for label in labels], content_hash((*case.images, case.label))
    text = f"{METHOD} {names} {case.annotation.model_dump_json()} {list(channels)} {files}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _known_cases(path: Path | None) -> tuple[CaseFingerprint, ...]:
    if path is None or not path.is_file():
        return ()
    try:
        return Fingerprint.read(path).cases
    except UserError:  # of another version: it is made anew
        return ()


def _fingerprint_known(item, labels: Sequence[LabelPlan], channels: Sequence[str]) -> CaseFingerprint:
    case, known = item
    if known is not None and known.content_hash == fingerprint_hash(case, labels, channels):
        return known
    return fingerprint_case(case, labels, channels)


def _tried(read: Callable, faults: list[str]):
    """The result of `read`, or None and its faults."""
    try:
        return read()
    except UserError as error:
        faults += error.lines
        return None


def _foreground_samples(image: np.ndarray, numbers: np.ndarray, case: str) -> tuple[tuple[float, ...], ...]:
    """Per channel, intensities at `SAMPLES` random foreground voxels (fewer where there are fewer)."""
    places = np.flatnonzero(numbers > 0)
    if len(places) > SAMPLES:
        places = np.random.default_rng([*case.encode()]).choice(places, SAMPLES, replace=False)
    index = np.unravel_index(places, numbers.shape)
    return tuple(tuple(float(f"{value:.6g}") for value in channel[index]) for channel in image)


def _thickness(mask: np.ndarray, spacing: Millimetres) -> float:
    """Twice the 90th percentile of the distance to the surface, in mm.

    Distances are taken between voxel centres, so half a voxel less than to the next voxel outside. On a thinned mask
    nothing is thinner than a step, so what is not much thicker there is measured in full.
    """
    steps = [max(1, round(size / _MEASURED)) for size in mask.shape]
    sampling = [step * length for step, length in zip(steps, spacing, strict=True)]
    depths = _depths(mask[tuple(slice(step // 2, None, step) for step in steps)], sampling)
    if len(depths) == 0 or (max(steps) > 1 and 2 * np.percentile(depths, 90) < 4 * max(sampling)):
        sampling = spacing
        depths = np.concatenate([_depths(piece, spacing, core) for piece, core in _pieces(mask)])
    return float(2 * np.percentile(depths, 90) - min(sampling))


def _depths(mask: np.ndarray, sampling: Sequence[float], core: tuple[slice, ...] = ()) -> np.ndarray:
    """Distances to the surface, of the mask's voxels in `core`; nothing beyond the array belongs to it."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sampling)[1:-1, 1:-1, 1:-1]
    return distance[core][mask[core]]


def _pieces(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[slice, ...]]]:
    """Cubes about voxels spread over a mask, and the middle of each, where no cut through the mask is felt."""
    places = np.flatnonzero(mask)
    for place in places[np.linspace(0, len(places) - 1, _PIECES).astype(int)]:
        centre = np.unravel_index(place, mask.shape)
        low = [max(0, at - _MEASURED // 2) for at in centre]
        piece = mask[tuple(slice(first, at + _MEASURED // 2) for first, at in zip(low, centre, strict=True))]
        reach = _MEASURED // 4
        core = (slice(max(0, at - first - reach), at - first + reach) for first, at in zip(low, centre, strict=True))
        yield piece, tuple(core)
