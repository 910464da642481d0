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
_OF_ENDINGS = {".nii": NIFTI, ".nii.gz": NIFTI, ".hdr": NIFTI, ".nrrd": NRRD, ".nhdr": NRRD, ".mha": META, ".mhd": META}


def wrong_ending(name: str, start: bytes) -> str | None:
    """A line for a file whose content has another format than its name; None if it has not, or is not known.

    Args:
        name: the path.
        start: the first `START_BYTES` of the file.
    """
    expected = ZIP if is_archive_name(name) else _OF_ENDINGS.get(split_ending(name)[1], DICOM)
    unpacked = _unpacked(start)
    found = _format_of(unpacked or start)
    if found is None or (found == expected and not (unpacked and found != NIFTI)):
        return None
    if unpacked and found != NIFTI:
        return f"{name} is a {found} file in gzip. Unpack it with gunzip, and give it the ending of its format."
    return f"{name} is not a {expected} file but {found}. Rename it to the ending of its format."


def _format_of(start: bytes) -> str | None:
    return next((name for place, magic, name in _STARTS if start[place : place + len(magic)] == magic), None)


def _unpacked(start: bytes) -> bytes:
    """The first bytes of what a gzip file holds. Empty for other files."""
    if not start.startswith(b"\x1f\x8b"):
        return b""
    try:
        return zlib.decompressobj(31).decompress(start, START_BYTES)
    except zlib.error:
        return b""
