"""Files that seem to be scans but are not read. Each is named with the way out."""

import zipfile
from collections.abc import Collection
from pathlib import Path

from plans.file_names import (
    FILE_ENDINGS,
    is_archive_name,
    is_image_name,
    is_unread_archive,
    is_unread_image,
    split_ending,
    unpacked_name,
    voxel_files,
)
from textdiffseg.imaging.sources.dicom.files import is_zip_of_slices
from textdiffseg.imaging.sources.formats import START_BYTES, scan_format
from textdiffseg.imaging.sources.streams import Damaged, zip_faults_as_damage


def unread_images(files: Collection[Path]) -> list[Path]:
    """Of some files those that seem to be scans and are not read.

    They are images of other formats, compressed images, archives, zips of images, images without an ending, and files
    of voxels without a header.
    """
    headers = [split_ending(path.name)[0] for path in files if split_ending(path.name)[1] == ".hdr"]
    voxels = {name for stem in headers for name in voxel_files(stem)}
    return [path for path in files if path.name.lower() not in voxels and _is_unread(path)]


def unread_line(path: Path) -> str:
    """A line for a file that is not read: why, and what to do."""
    if is_archive_name(path.name):
        return f"{path} holds no DICOM slices, but other images. Unpack it."
    if is_unread_archive(path.name):
        return f"{path}: archives are not read. Unpack it."
    if unpacked_name(path.name) != path.name:
        return f"{path}: its format is not read. Unpack it."
    if found := _format_without_ending(path):
        return f"{path}: it is {found}, but its name has no ending. Rename it to the ending of its format."
    return f"{path}: its format is not read. Convert it to one of {', '.join(FILE_ENDINGS)}."


def is_zip_of_images(path: Path) -> bool:
    """Whether a file is a zip that holds images and no DICOM slices."""
    if not is_archive_name(path.name) or not path.is_file() or is_zip_of_slices(path):
        return False
    try:
        with zip_faults_as_damage(), zipfile.ZipFile(path) as archive:
            return any(is_image_name(name) for name in archive.namelist())
    except (Damaged, OSError):
        return False


def _is_unread(path: Path) -> bool:
    name = path.name
    by_name = is_unread_image(name) or is_unread_archive(name)
    return by_name or is_zip_of_images(path) or _format_without_ending(path) is not None


def _format_without_ending(path: Path) -> str | None:
    """The format of a scan whose name has no ending; None for other files, also for DICOM."""
    if "." in path.name or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return scan_format(file.read(START_BYTES))
    except OSError:  # another user's
        return None
