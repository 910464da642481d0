"""Which scans a folder holds."""

import re
from pathlib import Path

from plans.errors import UserError
from plans.layout import FILE_ENDINGS, split_ending
from textdiffseg.imaging.sources.dicom import series_in

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def list_scans(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The scans below `folder`, by id: its files one channel each (ID_0000.nii.gz, ...) or plainly named, and DICOM
    folders. `folder` may also be one file or one DICOM series.
    """
    folder = Path(folder)
    if folder.is_file():
        stem, ending = split_ending(folder.name)
        if not ending:
            raise UserError(f"{folder}: not a scan; expected a file ending with {', '.join(FILE_ENDINGS)}.")
        return {stem.removesuffix("_0000"): (folder,)}
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist. Give a scan, or a folder of scans.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, ending = split_ending(path.name)
        if path.is_file() and ending and not path.name.startswith("."):
            other = files.setdefault(stem, path)
            if other != path:
                raise UserError(f"{other} and {path} have one name and would give one output. Move one of them away.")
    scans = _by_case(files)
    if not scans and series_in(folder):
        return {folder.resolve().name: (folder,)}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and series_in(path):
            scans.setdefault(path.name, (path,))
    if not scans:
        raise UserError(
            f"{folder} holds no scan. Expected files ending with {', '.join(FILE_ENDINGS)}, or folders of DICOM slices."
        )
    return dict(sorted(scans.items()))


def _by_case(files: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Group file names by case: `ID_0000`, `ID_0001`, ... where an `ID_0000` exists, else plain names."""
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
