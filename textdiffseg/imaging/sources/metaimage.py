"""The header of a MetaImage file (.mha; .mhd with its voxels in another file)."""

from collections.abc import Mapping
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
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_ORIGINS, _MATRICES = ("Offset", "Position", "Origin"), ("TransformMatrix", "Rotation", "Orientation")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_MAX_LINE_BYTES = 8192
_VOXELS = "ElementDataFile"


def read_block(path: Path) -> VoxelBlock:
    """The place of the voxels. Raises `UserError` for a damaged file, and for an unsupported one."""
    with reported_as_damage(path):
        fields, end = _fields(first_bytes(path))
        (axes,) = whole_numbers(fields.get("NDims", ""), "NDims", 1)
        sizes = whole_numbers(fields.get("DimSize", ""), "DimSize")
        if not 1 <= axes <= 4 or len(sizes) != axes:
            raise Damaged(f"NDims: {axes}, and DimSize has {len(sizes)} numbers")
        (channels,) = whole_numbers(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", 1)
        sizes = sizes if channels == 1 else (channels, *sizes)
        dtype = _dtype(fields, path)
        compressed, text = _is_true(fields, "CompressedData"), not _is_true(fields, "BinaryData", "True")
        if compressed and text:
            raise Damaged("CompressedData and BinaryData contradict each other")
        size = int(np.prod(sizes, dtype=object)) * dtype.itemsize
        held, offset = _voxel_location(fields, path, end, size, compressed)
    notes, scale = _check_orientation(fields, axes, path), _scale(fields, path)
    return VoxelBlock(held, offset, sizes, dtype, compressed, text, notes, channels > 1, scale)


def _check_orientation(fields: dict[str, str], axes: int, path: Path) -> tuple[str, ...]:
    """Notes on what the header leaves open. Raises `UserError` for numbers that do not place the voxels.

    ITK takes 0 for an offset that is not a number, and 1 for a spacing of -1.
    """
    refuse_units([fields.get("DistanceUnits", "")], path)
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    steps = (1.0,) * axes if spacing is None else real_numbers(spacing)
    if len(steps) != axes or not all(step > 0 and np.isfinite(step) for step in steps[:3]):
        raise wrong_spacing(path, "ElementSpacing", spacing or "")
    for names, count in ((_ORIGINS, axes), (_MATRICES, axes * axes)):
        for name in names:
            found = real_numbers(fields[name]) if name in fields else (0.0,) * count
            if len(found) != count or not np.isfinite(found).all():
                raise UserError(f"{path}: {name}: expected {count} numbers, found {fields[name][:40]!r}. Correct it.")
        _refuse_contradictions({name: real_numbers(fields[name]) for name in names if name in fields}, path)
    spaced, oriented = spacing is not None, any(name in fields for name in _MATRICES)
    return (NO_SPACING,) * (not spaced) + (NO_ORIENTATION,) * (not oriented)


def _fields(content: bytes) -> tuple[dict[str, str], int]:
    """Name -> value of the fields, and the length of the header in bytes. Raises `Damaged`."""
    fields: dict[str, str] = {}
    for line, position in header_lines(content):
        if len(line) > _MAX_LINE_BYTES:
            raise Damaged(f"a line of its header has {len(line)} bytes, expected at most {_MAX_LINE_BYTES}")
        name, equals, value = line.decode("utf-8", "replace").partition("=")
        name = name.strip()
        if (not equals and name) or ":" in name:
            raise Damaged(f"its header contains the line {name[:40]!r}")
        if name in fields and fields[name] != value.strip():
            raise Damaged(f"its header contains {name} twice")
        fields[name] = value.strip()
        if name == _VOXELS:
            return fields, position
    raise Damaged(f"its header has no {_VOXELS}")


def _dtype(fields: dict[str, str], path: Path) -> np.dtype:
    name = fields.get("ElementType", "")
    if name not in _KINDS:
        raise UserError(
            f"{path}: ElementType: {name[:40]!r} is not supported. Save it with one of {', '.join(_KINDS)}."
        )
    orders = {field: _is_true(fields, field) for field in _BYTE_ORDERS if field in fields}
    _refuse_contradictions(orders, path)
    return np.dtype(f"{'>' if any(orders.values()) else '<'}{_KINDS[name]}")


def _refuse_contradictions(values: Mapping[str, object], path: Path) -> None:
    """Raise `UserError` if names of one field have different values. Programs differ in which of them they read."""
    if len(set(values.values())) > 1:
        raise UserError(f"{path}: {' and '.join(values)} contradict each other. Keep the right one.")


def _voxel_location(fields: dict[str, str], path: Path, end: int, size: int, compressed: bool) -> tuple[Path, int]:
    """The file with the voxels, and the number of bytes before them."""
    name, skipped = fields[_VOXELS], fields.get("HeaderSize", "0")
    local = name.lower() == "local"
    if not local and (name.upper().startswith("LIST") or "%" in name):
        raise UserError(f"{path}: its voxels are in several files, which is not supported. Save it as one file.")
    if local:
        held, offset = path, end
    else:
        held, offset = neighbour(path, name), 0
    if skipped == "-1" and not compressed:
        offset = max(offset, held.stat().st_size - size)
    elif skipped.isascii() and skipped.isdigit() and int(skipped) > 0 and not compressed and not local:
        offset = int(skipped[:12])
    elif skipped not in ("0", ""):
        raise UserError(f"{path}: HeaderSize: {skipped[:20]!r} is not supported. Save it again.")
    return held, offset


def _is_true(fields: dict[str, str], name: str, missing: str = "False") -> bool:
    return fields.get(name, missing)[:1] in ("T", "t", "1")


def _scale(fields: dict[str, str], path: Path) -> tuple[float, float]:
    """The slope and the intercept of the stored values. ITK does not apply them."""
    slope, intercept = (
        _number(fields, f"ElementToIntensityFunction{name}", missing, path)
        for name, missing in (("Slope", "1"), ("Offset", "0"))
    )
    if slope == 0:
        raise UserError(f"{path}: ElementToIntensityFunctionSlope: expected a number other than 0. Correct it.")
    return slope, intercept


def _number(fields: dict[str, str], name: str, missing: str, path: Path) -> float:
    found = real_numbers(fields.get(name, missing))
    if len(found) != 1 or not np.isfinite(found[0]):
        raise UserError(f"{path}: {name}: expected one number, found {fields[name][:40]!r}. Correct it.")
    return found[0]
