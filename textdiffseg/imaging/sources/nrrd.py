"""The header of a NRRD file (.nrrd; .nhdr with its voxels in another file)."""

import os
import re
from pathlib import Path

import numpy as np

from plans.errors import UserError
from textdiffseg.imaging.sources.headers import (
    NO_ORIENTATION,
    NO_SPACING,
    VoxelBlock,
    first_bytes,
    header_lines,
    real_numbers,
    refuse_units,
    whole_numbers,
    wrong_spacing,
)
from textdiffseg.imaging.sources.neighbours import neighbour
from textdiffseg.imaging.sources.streams import Damaged, reported_as_damage

_KINDS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_SEGMENT = re.compile(r"^Segment(\d{1,5})_(Name|LabelValue):=(.{1,200})$", re.MULTILINE)
_RAW, _GZIP, _TEXT = ("raw",), ("gz", "gzip"), ("txt", "text", "ascii")
_FIELDS = {
    "axis maxs", "axis mins", "block size", "byte skip", "byteskip", "centerings", "centers", "content", "data file",
    "datafile", "dimension", "encoding", "endian", "kinds", "labels", "line skip", "lineskip", "max", "measurement",
    "measurement frame", "min", "number", "old max", "old min", "oldmax", "oldmin", "sample units", "sampleunits",
    "sizes", "space", "space dimension", "space directions", "space origin", "space units", "spacings",
    "thicknesses", "type", "units", "axismins", "axismaxs", "blocksize",
}  # fmt: skip
_ORIENTED = {
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
    "right-anterior-superior-time", "rast", "left-anterior-superior-time", "last",
    "left-posterior-superior-time", "lpst",
}  # fmt: skip
_SPACES = _ORIENTED | {  # the others leave the patient's sides open
    "scanner-xyz", "scanner-xyz-time", "3d-right-handed", "3d-left-handed", "3d-right-handed-time",
    "3d-left-handed-time",
}  # fmt: skip
_COLOURS = {"complex", "rgb-color", "hsv-color", "xyz-color", "rgba-color"}
# ITK copies a line that it cannot parse, and the file's name, into a buffer of about 1,000 bytes. Longer ones crash it.
_MAX_FIELD_BYTES, _MAX_PATH_BYTES = 400, 400
_MAX_LINE_BYTES = 1 << 16  # of comments, contents and key/value pairs, which ITK does not parse


def read_block(path: Path) -> VoxelBlock:
    """The place of the voxels. Raises `UserError` for a damaged file, and for an unsupported one."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise UserError(f"{path}: its path is too long for NRRD (at most {_MAX_PATH_BYTES} bytes). Move it.")
    with reported_as_damage(path):
        fields, end = _fields(first_bytes(path))
        (axes,) = whole_numbers(fields.get("dimension", ""), "dimension", 1)
        sizes = whole_numbers(fields.get("sizes", ""), "sizes")
        if len(sizes) != axes:
            raise Damaged(f"dimension: {axes}, and sizes has {len(sizes)} numbers")
        kinds = _check_words(fields, axes, path)
        encoding = fields.get("encoding", "").lower()
        if encoding not in (*_RAW, *_GZIP, *_TEXT):
            raise UserError(f"{path}: encoding: {encoding!r:.40} is not supported. Save it with raw or gzip.")
        dtype = _dtype(fields, path)
        held, offset = _voxel_location(fields, path, end, encoding, int(np.prod(sizes, dtype=object)) * dtype.itemsize)
    if _COLOURS & set(kinds):
        raise UserError(f"{path}: its voxels are colours or complex numbers. Save them as real numbers.")
    notes = _check_orientation(fields, axes, path)
    return VoxelBlock(held, offset, sizes, dtype, encoding in _GZIP, encoding in _TEXT, notes=notes)


def segment_values(path: Path) -> tuple[tuple[str, int], ...]:
    """The name and the value of each segment that 3D Slicer wrote into a header; () for other files.

    Two segments may have one name.
    """
    head = first_bytes(path).partition(b"\n\n")[0].decode("utf-8", "replace")
    found: dict[str, dict[str, str]] = {}
    for number, key, value in _SEGMENT.findall(head.replace("\r", "")):
        found.setdefault(number, {})[key] = " ".join(value.split())
    whole = [segment for segment in found.values() if segment.get("Name") and segment.get("LabelValue", "").isdecimal()]
    return tuple((segment["Name"], int(segment["LabelValue"])) for segment in whole)


def _check_orientation(fields: dict[str, str], axes: int, path: Path) -> tuple[str, ...]:
    """Notes on what the header leaves open. Raises `UserError` for numbers that do not place the voxels."""
    refuse_units(re.findall('"([^"]*)"', f"{fields.get('space units', '')} {fields.get('units', '')}"), path)
    origin = fields.get("space origin", "(0,0,0)")
    coordinates = real_numbers(origin.strip("()").replace(",", " "))
    if not coordinates or not np.isfinite(coordinates).all():  # ITK takes 0
        raise UserError(f"{path}: space origin: expected numbers in mm, found {origin[:40]!r}. Correct it.")
    vectors, spacings = fields.get("space directions"), fields.get("spacings")
    if vectors is None and spacings is None:
        return NO_SPACING, NO_ORIENTATION
    if vectors is not None:
        placed = vectors.count("(")
    else:
        placed = sum(step > 0 and np.isfinite(step) for step in real_numbers(spacings or ""))
    if axes >= 3 and placed < 3:  # fewer axes are refused as such
        raise wrong_spacing(path, "spacings" if vectors is None else "space directions", vectors or spacings or "")
    oriented = vectors is not None and fields.get("space", "").lower() in _ORIENTED
    return () if oriented else (NO_ORIENTATION,)


def _fields(content: bytes) -> tuple[dict[str, str], int]:
    """Name -> value of the fields, and the length of the header in bytes. Raises `Damaged`."""
    if not re.match(rb"NRRD000[1-5]\r?\n", content):
        raise Damaged("no NRRD header")
    fields: dict[str, str] = {}
    position = content.index(b"\n") + 1
    for whole_line, end in header_lines(content, position):
        position, line = end, whole_line.removesuffix(b"\r")
        if not line:
            break
        name, colon, value = line.partition(b": ")
        if len(line) > _MAX_LINE_BYTES:
            raise Damaged(f"a line of its header has {len(line)} bytes, expected at most {_MAX_LINE_BYTES}")
        if line.startswith(b"#") or b":=" in (name if colon else line):
            continue
        field = name.decode("ascii", "replace").lower()
        if not colon or field not in _FIELDS:
            raise Damaged(f"its header contains the line {line[:40].decode('ascii', 'replace')!r}")
        if len(line) > _MAX_FIELD_BYTES and field != "content":
            raise Damaged(f"{field}: {len(line)} bytes, expected at most {_MAX_FIELD_BYTES}")
        field = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(field, field)
        if field in fields:
            raise Damaged(f"its header contains {field} twice")
        fields[field] = value.decode("utf-8", "replace").strip()
        if field == "data file" and fields[field].upper().startswith("LIST"):
            break
    return fields, position


def _check_words(fields: dict[str, str], axes: int, path: Path) -> list[str]:
    """The kinds of the axes. Raises `Damaged` for words that are not in the format."""
    kinds = fields.get("kinds", "").lower().split()
    if kinds and (len(kinds) != axes or not all(re.fullmatch(r"[a-z0-9?-]{1,30}", kind) for kind in kinds)):
        raise Damaged(f"kinds: expected {axes} words, found {fields['kinds'][:40]!r}")
    if (space := fields.get("space", "lps").lower()) not in _SPACES:
        raise UserError(f"{path}: space: {space[:40]!r} is not supported. Save it in left-posterior-superior.")
    if "measurement" in fields:
        raise Damaged("its header contains the field 'measurement'")
    return kinds


def _dtype(fields: dict[str, str], path: Path) -> np.dtype:
    name = fields.get("type", "").lower()
    if name not in _KIND_OF:
        raise UserError(f"{path}: type: {name[:40]!r} is not supported. Save it as short, int or float.")
    dtype, endian = np.dtype(_KIND_OF[name]), fields.get("endian", "").lower()
    if endian not in ("little", "big") and (endian or (dtype.itemsize > 1 and fields["encoding"].lower() not in _TEXT)):
        raise Damaged(f"endian: expected little or big, found {endian[:20]!r}")
    return dtype.newbyteorder(">" if endian == "big" else "<")


def _voxel_location(fields: dict[str, str], path: Path, end: int, encoding: str, size: int) -> tuple[Path, int]:
    """The file with the voxels, and the number of bytes before them."""
    name, lines, skipped = fields.get("data file"), fields.get("line skip", "0"), fields.get("byte skip", "0")
    if name is not None and (name.upper().startswith("LIST") or "%" in name):
        raise UserError(f"{path}: its voxels are in several files, which is not supported. Save it as one file.")
    held, offset = (path, end) if name is None else (neighbour(path, name.removeprefix("./")), 0)
    if lines != "0" or (skipped != "0" and encoding not in _RAW) or not re.fullmatch(r"-1|\d{1,12}", skipped):
        raise UserError(
            f"{path}: line skip {lines!r:.20} and byte skip {skipped!r:.20} are not supported. Save it again."
        )
    if skipped == "-1":
        return held, max(offset, held.stat().st_size - size)
    return held, offset + int(skipped)
