"""One case of a new data set: its files are checked, and linked or converted into the folder of the data set."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError
from plans.file_names import NIFTI, VOXEL_ENDINGS, channel_file, split_ending
from plans.layout import RawFolder
from textdiffseg.files import replacing
from textdiffseg.imaging.sources.dicom import series_in
from textdiffseg.imaging.sources.files import files_of, is_series, read_volume
from textdiffseg.imaging.volume import Geometry, Volume, describe
from textdiffseg.imaging.writers.files import write_labels, write_volume
from textdiffseg.tasks.new.sources import CaseSource
from textdiffseg.tasks.new.structures import joined_masks, read_mask
from textdiffseg.tasks.new.values import label_counts

PLACED = "Some masks are turned, or smaller than their scan. They were written on its grid, voxel by voxel."


@dataclass(frozen=True)
class TakenCase:
    """A case in the folder of the data set."""

    case: str
    images: tuple[Path, ...]
    label: Path
    volumes: dict[int, float]  # value -> ml; 0: somebody looked for it, and found nothing
    notes: tuple[str, ...] = ()


def take_case(source: CaseSource, raw: RawFolder, structures: Mapping[str, int], in_one_file: bool) -> TakenCase:
    """Link the files of a case, or convert those that cannot be linked.

    Args:
        source: its files.
        raw: the folder of the data set.
        structures: the value of each structure, by its normalised name; for masks of structures with names.
        in_one_file: whether one image file holds all channels.

    Raises:
        UserError: a file cannot be read, the grids differ, or the mask is not a label map.
    """
    slices = [path for path in source.images if is_series(path)]
    if len({*slices}) < len(slices):  # the same series would be read for both
        raise UserError(f"{slices[0]} is given for two channels. Give each channel its own folder.")
    volumes = [read_volume((path,), series=_series_of(source, path)) for path in source.images]
    geometry = _grid(source.images, volumes)
    converted = {path: volume for path, volume in zip(source.images, volumes, strict=True) if _is_converted(path)}
    for path, volume in converted.items():
        if len(volume.array) > 1:
            raise UserError(f"{path} holds {len(volume.array)} channels, and cannot be linked. Save it as .nii.gz.")
    notes = tuple(note for volume in converted.values() for note in volume.notes)
    moved = source.is_joined or _is_converted(source.mask)
    if not source.is_joined:
        array, turned = read_mask(source.mask, geometry)
        counts = label_counts(array, source.mask)
        if turned:
            moved, notes = True, (*notes, PLACED)
    else:
        array, counts, more = joined_masks(source, structures, geometry)
        notes = (*notes, *more)
    channels = [channel_file(source.case, number, "") for number in range(len(source.images))]
    images = [
        _take(path, raw.images("Tr") / name, converted.get(path))
        for path, name in zip(source.images, [source.case] if in_one_file else channels, strict=True)
    ]
    if moved:
        label = raw.labels("Tr") / f"{source.case}{NIFTI}"
        write_labels(label, array, geometry)
    else:
        label = _take(source.mask, raw.labels("Tr") / source.case, None)
    millilitres = {value: count * geometry.voxel_ml for value, count in counts.items()}
    return TakenCase(source.case, tuple(images), label, millilitres, notes)


def _series_of(source: CaseSource, path: Path) -> str | None:
    """The series to read in a scan: that of the mask, which was drawn on one of the channels."""
    if source.series is None or not is_series(path):
        return None
    return source.series if len(source.images) == 1 or source.series in series_in(path) else None


def _grid(images: tuple[Path, ...], volumes: Sequence[Volume]) -> Geometry:
    """The grid of the scan. Raises `UserError` if the channels have different grids."""
    first = volumes[0].geometry
    for path, volume in zip(images, volumes, strict=True):
        if not volume.geometry.matches(first):
            raise UserError(
                f"{path}: its grid ({describe(volume.geometry)}) differs from that of {images[0]} ({describe(first)}). "
                "Resample all channels to one grid."
            )
    return first


def _is_converted(path: Path) -> bool:
    """Whether a scan cannot be linked: it is DICOM, or its voxels lie in a second file that the header names."""
    return not split_ending(path.name)[1] or (len(files_of(path)) > 1 and split_ending(path.name)[1] != ".hdr")


def _take(path: Path, target: Path, converted: Volume | None) -> Path:
    """The file in the data set: a link, else a copy, else a converted scan. target: its path without ending."""
    if converted is not None:
        written = target.with_name(f"{target.name}{NIFTI}")
        write_volume(written, converted.array[0], converted.geometry)
        return written
    linked = target.with_name(f"{target.name}{split_ending(path.name)[1]}")
    link(path, linked)
    for voxels in files_of(path)[1:]:  # of a .hdr file
        ending = next(one for one in VOXEL_ENDINGS if voxels.name.lower().endswith(one))
        link(voxels, target.with_name(f"{target.name}{ending}"))
    return linked


def remove(image: Path) -> None:
    """Delete an image of the data set, with the file of its voxels if it is a pair."""
    for file in files_of(image):
        file.unlink()


def link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`, or a copy where the file system has no links.

    A plain file at `target` is kept if it is the source itself.
    """
    if target.exists() and not target.is_symlink() and target.samefile(source):
        return
    with replacing(target) as temporary:
        try:
            os.symlink(source.resolve(), temporary)
        except (OSError, NotImplementedError):  # FAT, some network shares, Windows without the right
            shutil.copy2(source, temporary)
