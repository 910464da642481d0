"""Scans from DICOM: a folder of slices, a zip of slices, one slice of a series, or one multi-frame file."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import is_archive_name
from plans.geometry import triple
from textdiffseg.imaging.grids import MAX_SHEAR, refuse_origin, refuse_spacing, straighten
from textdiffseg.imaging.sources.dicom.copies import copies_among, refuse_contradictions
from textdiffseg.imaging.sources.dicom.files import (
    DicomFile,
    DicomSource,
    has_index_class,
    index_line,
    is_slice,
    slices_of,
    with_folders_below,
)
from textdiffseg.imaging.sources.dicom.instances import read_instance
from textdiffseg.imaging.sources.dicom.parts import note_on_parts, parts_beside, parts_of
from textdiffseg.imaging.sources.dicom.series import Choice, Series, choose, group
from textdiffseg.imaging.sources.dicom.stack import affine_in_order, stack
from textdiffseg.imaging.sources.dicom.tilt import STRAIGHTENED, straight_grid
from textdiffseg.imaging.sources.names import refuse_undecodable
from textdiffseg.imaging.sources.streams import reported_as_damage
from textdiffseg.imaging.volume import Geometry, Volume, refuse_flat

SAMPLED = 6  # slices at the start whose headers give an estimate of the grid


def read_series(source: Path, uid: str | None = None) -> Volume:
    """A series as (1, D, H, W) float32. D runs along the normal of the slices.

    Args:
        source: a folder of slices, a folder above the slices of one series, a zip of slices, one slice (its series is
            read, with the slices in folders beside its own), or one multi-frame file.
        uid: of the series to read; None: the largest one of a folder or a zip. With a UID, the series of a multi-frame
            file is read, too, as it may have several files.

    Raises:
        UserError: no series, a damaged slice, or slices that are not a regular stack.
    """
    from textdiffseg.imaging.sources.dicom.pixels import read_frames

    with _chosen(source, uid) as choice:
        slices = stack(choice.series, str(source))
        refuse_flat(slices.shape, str(source))
        array, affine, notes = read_frames(slices.frames), slices.affine, choice.notes
        if not is_archive_name(source.name):
            notes = (*notes, *note_on_parts(choice.series.instances))
    if _shear(affine) > MAX_SHEAR:
        array, affine, shift = straight_grid(array, affine)
        notes = (*notes, STRAIGHTENED.format(shift=shift))
    affine, straightened = straighten(affine, array.shape, str(source))
    return Volume(array[None], Geometry(triple(array.shape), affine), (*notes, *straightened))


def read_series_geometry(source: Path, uid: str | None = None) -> Geometry | None:
    """The grid of a series from its headers; None if it cannot be known. `uid`: of the series; None: the largest one.

    The headers of some slices are enough where the slices lie in the order of their files. Else all headers are read.
    Raises `UserError` for a damaged slice, for a single one, and for an implausible grid.
    """
    with _files(source, uid) as files:
        sampled = dict.fromkeys((*range(SAMPLED), len(files) // 2, len(files) - 1))
        found = {number: read_instance(files[number]) for number in sampled if 0 <= number < len(files)}
        alike = {number: one for number, one in found.items() if one is not None and one.count == 1}
        uids = {(instance.series, instance.shape) for instance in alike.values()}
        if len(alike) == len(found) and len(uids) == 1 and uid in (None, *(one for one, _ in uids)):
            frames = {number: one.frames[0] for number, one in alike.items()}
            if (affine := affine_in_order(frames, len(files))) is not None:
                return _plausible(Geometry((len(files), *alike[0].shape), affine), source)
    with _chosen(source, uid) as choice:
        slices = stack(choice.series, str(source))
    return _plausible(Geometry(slices.shape, slices.affine), source)


def _plausible(geometry: Geometry, source: Path) -> Geometry:
    """The grid itself. Raises `UserError` where `read_series` refuses it: the axes of a single slice have no length."""
    refuse_flat(geometry.shape, str(source))
    refuse_spacing(np.linalg.norm(geometry.affine[:3, :3], axis=0), str(source))
    refuse_origin(geometry.affine[:3, 3], str(source))
    return geometry


@contextmanager
def slice_files(source: Path, uid: str | None = None) -> Iterator[tuple[DicomSource, ...]]:
    """The files of the series that `read_series` reads, in the order of the slices (array axis D).

    A multi-frame file is named once. A zip stays open inside the context. Raises `UserError`.
    """
    with _chosen(source, uid) as choice:
        frames = stack(choice.series, str(source)).frames
        yield tuple(dict.fromkeys(frame.instance.source for frame in frames))


def source_slices(source: Path) -> tuple[Path, ...]:
    """The paths of the files in `slice_files`. Raises `UserError` for a zip, whose slices are not files."""
    if is_archive_name(source.name) and source.is_file():
        raise UserError(f"{source}: its slices are not files. Unpack it, and give the folder.")
    with slice_files(source) as places:
        return tuple(Path(place.name) for place in places)


def slice_paths(folder: Path) -> list[Path]:
    """The DICOM files that a folder stands for: its own, or those below it if they belong to one series."""
    return _slices_in(parts_of(folder, with_folders_below(folder)) or [folder])


def _slices_in(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.iterdir()) if is_slice(path)]


def series_in(source: Path) -> dict[str, Series]:
    """The series of a folder or a zip, by UID."""
    with _files(source) as files:
        return group(instance for instance in map(read_instance, files) if instance is not None)


def largest_series(source: Path) -> str:
    """The UID of the series that is read of a folder or a zip without a choice. Raises `UserError`."""
    with _chosen(source, None) as choice:
        return choice.series.uid


def has_series(folder: Path) -> bool:
    """Whether a folder holds a slice, or a damaged one. Only the files before it are read."""
    try:
        return any(read_instance(DicomFile(path)) for path in sorted(folder.iterdir()) if is_slice(path))
    except (UserError, OSError):
        return True


@contextmanager
def _chosen(source: Path, uid: str | None) -> Iterator[Choice]:
    """The series to read. A zip stays open inside the context."""
    with _files(source, uid) as files:
        if source.is_file() and not is_archive_name(source.name):
            own = read_instance(DicomFile(source))
            if own is None and has_index_class(source):
                raise UserError(index_line(source))
            if own is None:
                raise UserError(f"{source} is a DICOM file without slices of a scan. Give a slice, or their folder.")
            uid = uid or own.series
        instances = [instance for instance in map(read_instance, files) if instance is not None]
        if not instances:
            below = source.is_dir() and any(map(has_series, with_folders_below(source)))
            found = " itself, and those in its folders are no single scan" if below else ""
            raise UserError(f"{source} holds no DICOM slices{found}. Give a folder of DICOM slices, or a file.")
        copies = copies_among(instances)
        originals = [instance for number, instance in enumerate(instances) if number not in copies]
        choice = choose(originals, str(source), uid)
        refuse_contradictions(choice.series.instances, str(source))
        dropped = sum(instances[number].series == choice.series.uid for number in copies)
        notes = (f"Copies of slices were left out: {dropped}.",) if dropped else ()
        yield replace(choice, notes=(*choice.notes, *notes))


@contextmanager
def _files(source: Path, uid: str | None = None) -> Iterator[list[DicomSource]]:
    """The slices of a folder or a zip. For a slice those of its folder and of parts beside it; a multi-frame file.

    With a `uid`, a multi-frame file also stands for its folder.
    """
    refuse_undecodable(source)
    with reported_as_damage(source):
        if source.is_file() and not is_archive_name(source.name):
            own = read_instance(DicomFile(source))
            if own is None or (own.count > 1 and uid is None):
                yield [DicomFile(source)]
                return
            parts = parts_beside(source.parent) if own.count == 1 else []
            yield [DicomFile(path) for path in _slices_in(parts or [source.parent])]
            return
        if source.is_dir():
            yield [DicomFile(path) for path in slice_paths(source)]
            return
        with slices_of(source) as files:
            yield files


def _shear(affine: np.ndarray) -> float:
    """The largest cosine between two axes."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())
