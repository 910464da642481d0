"""The scans in a folder."""

import os
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

from plans.errors import UserError
from plans.file_names import FILE_ENDINGS, channel_file, is_archive_name, split_channel, split_ending
from textdiffseg.imaging.sources.dicom.files import index_line, is_index, is_slice, is_zip_of_slices
from textdiffseg.imaging.sources.dicom.listing import first_slices_of, scan_of_slice, scans_of_slices
from textdiffseg.imaging.sources.unread import unread_images, unread_line

MAX_SEARCHED = 200  # folders below one without scans


def list_scans(
    folder: Path,
    is_output: Callable[[Path], bool] = lambda _: False,
    series: str | None = None,
    optional: Collection[int] = (),
) -> dict[str, tuple[Path, ...]]:
    """The scans in a folder: id -> files.

    A scan is one file per channel (ID_0000.nii.gz, ...), one file with a plain name, a folder of DICOM slices at any
    depth, or a zip of slices. Images and archives that are not read are listed too. So are folders and pipes that have
    a scan's name. Reading reports each of them.

    Args:
        folder: of scans. It may also be one file, one DICOM series, one of its slices, or a zip of slices.
        is_output: whether a file is a mask of an earlier prediction, as masks may be in the same folder.
        series: UID of a DICOM series. The scans are then those that hold it, each given by a slice of it.
        optional: the numbers of the channels that a scan may lack.

    Raises:
        UserError: no scans, two scans of one id, or a missing channel.
    """
    folder = Path(folder)
    scans: dict[str, tuple[Path, ...]]
    if folder.exists() and not folder.is_dir():
        scans = {_case_of(folder): (folder,)}
    elif folder.is_dir():
        scans = _scans_in(folder, is_output, optional)
    else:
        what = "is a link that leads nowhere" if folder.is_symlink() else "does not exist"
        raise UserError(f"{folder} {what}. Give a scan, or a folder of scans.")
    return dict(sorted(scans.items())) if series is None else first_slices_of(series, scans, folder)


def scan_of_channel(file: Path, optional: Collection[int] = ()) -> dict[str, tuple[Path, ...]]:
    """The scan of a file `CASE_0000.nii.gz`, with the files of its other channels; {} for other names."""
    numbered = split_channel(split_ending(file.name)[0])
    if numbered is None or not split_ending(file.name)[1]:
        return {}
    files: dict[str, Path] = {}
    for path in _files(file.parent):
        stem, ending = split_ending(path.name)
        if ending and (split_channel(stem) or ("",))[0] == numbered[0]:
            _refuse_two(files.setdefault(stem, path), path)
    return {case: paths for case, paths in _by_case(files, optional).items() if file in paths}


def channels_without_file(case: str, paths: Sequence[Path], channels: int) -> tuple[int, ...]:
    """The numbers of the channels of a scan that have no file. () if its files are not numbered CASE_0000, ..."""
    numbered = [split_channel(split_ending(path.name)[0] or path.name) for path in paths]
    found = {channel[1] for channel in numbered if channel and case.endswith(channel[0])}
    if len(found) < len(paths) or max(found) >= channels:
        return ()
    return tuple(number for number in range(channels) if number not in found)


def _scans_in(
    folder: Path, is_output: Callable[[Path], bool], optional: Collection[int]
) -> dict[str, tuple[Path, ...]]:
    scans = _by_case(files_by_stem(folder, is_output), optional)
    slices: dict[str, Path] = {}
    for case, path in (*scans_of_slices(folder, beside_scans=bool(scans)), *_zips(folder)):
        _refuse_two(slices.setdefault(case, path), path)
    for case, paths in _by_case(slices, optional).items():
        if case in scans:
            _refuse_two(scans[case][0], paths[0])
        scans[case] = paths
    for path in _folders(folder):
        stem, ending = split_ending(path.name)
        if ending and path not in slices.values():  # reported when it is read
            _refuse_two(*scans.setdefault(stem, (path,)), path)
    for path in unread_images(_files(folder)):
        case = path.name.partition(".")[0]
        scans[path.name if case in scans else case] = (path,)
    if not scans:
        near = _nearest_with_scans(folder)
        raise UserError(
            f"{folder} holds no scan. Expected files that end with {', '.join(FILE_ENDINGS)}, or DICOM slices."
            + (f" Scans lie in {near}: give that folder, or the one above it." if near else "")
        )
    return scans


def _case_of(file: Path) -> str:
    """The id of the scan in one file."""
    name = file.name
    stem, ending = split_ending(f"{name[:-4]}.hdr" if name.lower().endswith(".img") else name)
    if ending:
        return stem.removesuffix("_0000")
    if is_archive_name(file.name):
        return file.name[: -len(file.suffix)]
    if is_index(file):
        raise UserError(index_line(file))
    if is_slice(file):
        return scan_of_slice(file)
    if unread_images([file]):
        raise UserError(unread_line(file))
    raise UserError(
        f"{file} is not a scan. Expected a file that ends with {', '.join(FILE_ENDINGS)}, or a DICOM slice."
    )


def _zips(folder: Path) -> list[tuple[str, Path]]:
    """The zips of slices: (id, file)."""
    files = [path for path in _files(folder) if is_archive_name(path.name) and is_zip_of_slices(path)]
    return [(path.name[: -len(path.suffix)], path) for path in files]


def unsearched_folders(
    folder: Path, others: Collection[Path], is_output: Callable[[Path], bool] = lambda _: False
) -> list[Path]:
    """The folders in `folder` that hold files of scans, directly or one folder below; without those in `others`.

    DICOM slices do not count, as they are listed at any depth.
    """

    def holds_scans(inner: Path) -> bool:
        try:
            folders = (inner, *_folders(inner))
            return any(split_ending(path.name)[1] and not is_output(path) for one in folders for path in _files(one))
        except OSError:  # it cannot be read, so nobody knows
            return False

    if not folder.is_dir():
        return []
    return [path for path in _folders(folder) if not {path, path.resolve()} & {*others} and holds_scans(path)]


def _nearest_with_scans(folder: Path) -> Path | None:
    """The first folder below that holds scans, of the first ones that are searched."""
    for inner, _, names in islice(os.walk(folder), 1, MAX_SEARCHED):
        if any(split_ending(name)[1] for name in names):
            return Path(inner)
    return None


def files_by_stem(folder: Path, is_output: Callable[[Path], bool] = lambda _: False) -> dict[str, Path]:
    """The images in a folder: name without ending -> file. Raises `UserError` if two would be one case."""
    files: dict[str, Path] = {}
    for path in _files(folder):
        stem, ending = split_ending(path.name)
        if ending and not is_output(path):
            _refuse_two(files.setdefault(stem, path), path)
    return files


def _files(folder: Path) -> list[Path]:
    """All but folders. Reading reports broken links, pipes and devices."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def _refuse_two(*paths: Path) -> None:
    """Raise `UserError` unless all are the same path."""
    if len(set(paths)) > 1:
        raise UserError(
            f"{' and '.join(map(str, dict.fromkeys(paths)))} would be one case and give one output. Move one away."
        )


def _by_case(files: dict[str, Path], optional: Collection[int] = ()) -> dict[str, tuple[Path, ...]]:
    """Case -> files: `ID_0000`, `ID_0001`, ... are one case if `ID_0000` exists. Other names are one case each.

    If channels 0 to N are `optional`, one of `ID_0000` to `ID_000N+1` must exist instead.
    """
    grouped: dict[str, dict[int, Path]] = {}
    leading = next(number for number in range(len(optional) + 1) if number not in optional)
    for stem, path in files.items():
        case, channel = split_channel(stem) or (stem, 0)
        if not any(channel_file(case, number, "") in files for number in range(leading + 1)):
            case, channel = stem, 0
        other = grouped.setdefault(case, {}).setdefault(channel, path)
        if other != path:
            raise UserError(f"{other} and {path} would both be scan {case}. Move one of them away.")
    gaps = [
        f"{next(iter(found.values())).parent}: case {case}: channel {channel:04d} is missing. Add {case}_{channel:04d}."
        for case, found in grouped.items()
        for channel in range(max(found))
        if channel not in found and channel not in optional
    ]
    if gaps:
        raise UserError(*gaps)
    return {case: tuple(found[channel] for channel in sorted(found)) for case, found in grouped.items()}
