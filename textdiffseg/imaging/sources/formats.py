"""The format of a file by its first bytes, for files that have the ending of another format."""

import zlib

from plans.file_names import is_archive_name, split_ending

START_BYTES = 1024  # of a file, that show its format, also if they are compressed
NIFTI, NRRD, META, DICOM, ZIP = "NIfTI", "NRRD", "MetaImage", "DICOM", "zip"
_STARTS = (  # place, bytes, format
    *((344, magic, NIFTI) for magic in (b"n+1\0", b"ni1\0")),
    *((4, magic, NIFTI) for magic in (b"n+2\0", b"ni2\0")),
    (128, b"DICM", DICOM),
    (0, b"NRRD", NRRD),
    *((0, name, META) for name in (b"ObjectType", b"NDims")),
    (0, b"PK\x03\x04", ZIP),
    (0, b"\x89HDF", "HDF5"),
    (0, b"CDF\x01", "MINC"),
)
GZIP = b"\x1f\x8b"
_PACKED = {
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"7z\xbc\xaf": "7z x",
    b"Rar!": "unrar x",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_GIT_LFS, _WEB_PAGES = b"version https://git-lfs", (b"<!doctype html", b"<html", b"<?xml")
_OF_ENDINGS = {".nii": NIFTI, ".nii.gz": NIFTI, ".hdr": NIFTI, ".nrrd": NRRD, ".nhdr": NRRD, ".mha": META, ".mhd": META}


def wrong_ending(name: str, start: bytes) -> str | None:
    """A line for a file whose content has another format than its name, or is no scan; None if it is not known.

    Args:
        name: the path.
        start: the first `START_BYTES` of the file.
    """
    expected = ZIP if is_archive_name(name) else _OF_ENDINGS.get(split_ending(name)[1], DICOM)
    unpacked = _unpacked(start)
    if line := _no_scan(name, start, unpacked):
        return line
    found = _format_of(unpacked or start)
    if found is None or (found == expected and not (unpacked and found != NIFTI)):
        return None
    if unpacked and found != NIFTI:
        return f"{name} is a {found} file in gzip. Unpack it with gunzip, and give it the ending of its format."
    return f"{name} is not a {expected} file but {found}. Rename it to the ending of its format."


def scan_format(start: bytes) -> str | None:
    """NIfTI, NRRD or MetaImage, by the first `START_BYTES` of a file, which may be gzip; None for other files."""
    found = _format_of(_unpacked(start) or start)
    return found if found in _OF_ENDINGS.values() else None


def _no_scan(name: str, start: bytes, unpacked: bytes) -> str | None:
    """A line for what downloads often leave in place of a scan; None for other files."""
    if start.startswith(_GIT_LFS):
        return f"{name} is a pointer of Git LFS, not the scan. Fetch the scan with `git lfs pull`."
    if start.lstrip().lower().startswith(_WEB_PAGES):
        return f"{name} is a web page or XML, not a scan. Download it again."
    if unpacked.startswith(GZIP):
        return f"{name} is compressed twice. Unpack it once with gunzip."
    command = next((command for magic, command in _PACKED.items() if start.startswith(magic)), None)
    return f"{name} is an archive that is not read. Unpack it with `{command}`." if command else None


def _format_of(start: bytes) -> str | None:
    return next((name for place, magic, name in _STARTS if start[place : place + len(magic)] == magic), None)


def _unpacked(start: bytes) -> bytes:
    """The first bytes of what a gzip file holds. Empty for other files."""
    if not start.startswith(GZIP):
        return b""
    try:
        return zlib.decompressobj(31).decompress(start, START_BYTES)
    except zlib.error:
        return b""
