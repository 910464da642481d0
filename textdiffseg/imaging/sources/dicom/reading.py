"""Scans from DICOM: a folder of slices, a zip of slices, one slice of a series, or one multi-frame file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import is_archive_name
from plans.geometry import triple
from textdiffseg.imaging.grids import MAX_SHEAR, straighten
from textdiffseg.imaging.sources.dicom.copies import copies_among, refuse_contradictions
from textdiffseg.imaging.sources.dicom.instances import read_instance
from textdiffseg.imaging.sources.dicom.places import FilePlace, Place, is_slice, slices_of
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
        source: a folder of slices, a zip of slices, one slice (its series is read), or one multi-frame file.
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
    if _shear(affine) > MAX_SHEAR:
        array, affine, shift = straight_grid(array, affine)
        notes = (*notes, STRAIGHTENED.format(shift=shift))
    affine, straightened = straighten(affine, array.shape, str(source))
    return Volume(array[None], Geometry(triple(array.shape), affine), (*notes, *straightened))


def read_series_geometry(source: Path, uid: str | None = None) -> Geometry | None:
    """The grid of a series from its headers; None if it cannot be known. `uid`: of the series; None: the largest one.

    The headers of some slices are enough where the slices lie in the order of their files. Else all headers are read.
    Raises `UserError` for a damaged slice.
    """
    with _places(source, uid) as places:
        sampled = dict.fromkeys((*range(SAMPLED), len(places) // 2, len(places) - 1))
        found = {number: read_instance(places[number]) for number in sampled if 0 <= number < len(places)}
        alike = {number: one for number, one in found.items() if one is not None and one.count == 1}
        uids = {(one.series, one.shape) for one in alike.values()}
        if len(alike) == len(found) and len(uids) == 1 and uid in (None, *(one for one, _ in uids)):
            frames = {number: one.frames[0] for number, one in alike.items()}
            if (affine := affine_in_order(frames, len(places))) is not None:
                return Geometry((len(places), *alike[0].shape), affine)
    with _chosen(source, uid) as choice:
        slices = stack(choice.series, str(source))
    return Geometry(slices.shape, slices.affine)


@contextmanager
def source_places(source: Path, uid: str | None = None) -> Iterator[tuple[Place, ...]]:
    """The files of the series that `read_series` reads, in the order of the slices (array axis D).

    A multi-frame file is named once. A zip stays open inside the context. Raises `UserError`.
    """
    with _chosen(source, uid) as choice:
        frames = stack(choice.series, str(source)).frames
        yield tuple(dict.fromkeys(frame.instance.place for frame in frames))


def source_slices(source: Path) -> tuple[Path, ...]:
    """The paths of the files in `source_places`. Raises `UserError` for a zip, whose slices are not files."""
    if is_archive_name(source.name) and source.is_file():
        raise UserError(f"{source}: its slices are not files. Unpack it, and give the folder.")
    with source_places(source) as places:
        return tuple(Path(place.name) for place in places)


def series_in(source: Path) -> dict[str, Series]:
    """The series of a folder or a zip, by UID."""
    with _places(source) as places:
        return group(one for one in map(read_instance, places) if one is not None)


def largest_series(source: Path) -> str:
    """The UID of the series that is read of a folder or a zip without a choice. Raises `UserError`."""
    with _chosen(source, None) as choice:
        return choice.series.uid


def has_series(folder: Path) -> bool:
    """Whether a folder holds a slice, or a damaged one. Only the files before it are read."""
    try:
        return any(read_instance(FilePlace(path)) for path in sorted(folder.iterdir()) if is_slice(path))
    except (UserError, OSError):
        return True


@contextmanager
def _chosen(source: Path, uid: str | None) -> Iterator[Choice]:
    """The series to read. A zip stays open inside the context."""
    with _places(source, uid) as places:
        if source.is_file() and not is_archive_name(source.name):
            own = read_instance(FilePlace(source))
            if own is None:
                raise UserError(f"{source} is a DICOM file without slices of a scan. Give a slice, or their folder.")
            uid = uid or own.series
        instances = [one for one in map(read_instance, places) if one is not None]
        if not instances:
            raise UserError(f"{source} holds no DICOM slices. Give a folder of DICOM slices, or a file.")
        copies = copies_among(instances)
        choice = choose([one for place, one in enumerate(instances) if place not in copies], str(source), uid)
        refuse_contradictions(choice.series.instances, str(source))
        dropped = sum(instances[place].series == choice.series.uid for place in copies)
        notes = (f"Copies of slices were left out: {dropped}.",) if dropped else ()
        yield replace(choice, notes=(*choice.notes, *notes))


@contextmanager
def _places(source: Path, uid: str | None = None) -> Iterator[list[Place]]:
    """The slices of a folder or a zip. For a slice those of its folder, for a multi-frame file itself.

    With a `uid`, a multi-frame file also stands for its folder.
    """
    refuse_undecodable(source)
    with reported_as_damage(source):
        if source.is_file() and not is_archive_name(source.name):
            own = read_instance(FilePlace(source))
            if own is None or (own.count > 1 and uid is None):
                yield [FilePlace(source)]
                return
            source = source.parent
        with slices_of(source) as places:
            yield places


def _shear(affine: np.ndarray) -> float:
    """The largest cosine between two axes."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())
