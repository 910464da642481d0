"""The scans in a folder."""

import re
from collections.abc import Callable
from pathlib import Path

from plans.errors import UserError
from plans.file_names import FILE_ENDINGS, is_unread_image, split_ending

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def list_scans(folder: Path, is_output: Callable[[Path], bool] = lambda _: False) -> dict[str, tuple[Path, ...]]:
    """The scans in a folder: id -> files.

    A scan is one file per channel (ID_0000.nii.gz, ...), one file with a plain name, or a DICOM folder. Images in an
    unsupported format are listed too, so reading reports each of them.

    Args:
        folder: of scans. It may also be one file or one DICOM series.
        is_output: whether a file is a mask of an earlier prediction, as masks may be in the same folder.

    Raises:
        UserError: no scans, two scans of one id, or a missing channel.
    """
    from textdiffseg.imaging.sources.dicom import series_in

    folder = Path(folder)
    if folder.is_file():
        stem, ending = split_ending(folder.name.removesuffix(".img") + ".hdr" * folder.name.endswith(".img"))
        if not ending:
            raise UserError(f"{folder} is not a scan. Expected a file that ends with {', '.join(FILE_ENDINGS)}.")
        return {stem.removesuffix("_0000"): (folder,)}
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist. Give a scan, or a folder of scans.")
    scans = _by_case(files_by_stem(folder, is_output))
    if not scans and series_in(folder):
        return {folder.resolve().name: (folder,)}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and series_in(path):
            _refuse_two(*scans.setdefault(path.name, (path,)), path)
    for path in unread_images(folder):
        scans.setdefault(path.name.partition(".")[0], (path,))
    if not scans:
        raise UserError(
            f"{folder} holds no scan. Expected files that end with {', '.join(FILE_ENDINGS)}, or folders of DICOM "
            "slices."
        )
    return dict(sorted(scans.items()))


def files_by_stem(folder: Path, is_output: Callable[[Path], bool] = lambda _: False) -> dict[str, Path]:
    """The images in a folder: name without ending -> file. Raises `UserError` if two would be one case."""
    files: dict[str, Path] = {}
    for path in _files(folder):
        stem, ending = split_ending(path.name)
        if ending and not is_output(path):
            _refuse_two(files.setdefault(stem, path), path)
    return files


def unread_images(folder: Path) -> list[Path]:
    """The images in a folder whose format is not supported, and files of voxels without a header."""
    headers = {split_ending(path.name)[0] for path in _files(folder) if split_ending(path.name)[1] == ".hdr"}
    return [path for path in _files(folder) if is_unread_image(path.name) and path.stem not in headers]


def _files(folder: Path) -> list[Path]:
    """The files and the broken links in a folder. Reading reports the broken links."""
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.is_file() or (path.is_symlink() and not path.exists()))


def _refuse_two(*paths: Path) -> None:
    """Raise `UserError` unless all are the same path."""
    if len(set(paths)) > 1:
        raise UserError(
            f"{' and '.join(map(str, dict.fromkeys(paths)))} would be one case and give one output. Move one away."
        )


def _by_case(files: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Case -> files: `ID_0000`, `ID_0001`, ... are one case if `ID_0000` exists. Other names are one case each."""
    grouped: dict[str, dict[int, Path]] = {}
    for stem, path in files.items():
        match = _CHANNEL.fullmatch(stem)
        case, channel = (match[1], int(match[2])) if match and f"{match[1]}_0000" in files else (stem, 0)
        other = grouped.setdefault(case, {}).setdefault(channel, path)
        if other != path:
            raise UserError(f"{other} and {path} would both be scan {case}. Move one of them away.")
    gaps = [
        f"{next(iter(found.values())).parent}: case {case}: channel {channel:04d} is missing. Add {case}_{channel:04d}."
        for case, found in grouped.items()
        for channel in range(max(found))
        if channel not in found
    ]
    if gaps:
        raise UserError(*gaps)
    return {case: tuple(found[channel] for channel in sorted(found)) for case, found in grouped.items()}
