"""DICOM files with any fields, written without a library."""

import struct
from pathlib import Path

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging.sources.files import read_geometry, read_volume

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
FIELDS = {  # name -> tag and type
    "image_type": (0x00080008, "CS"),
    "sop_class": (0x00080016, "UI"),
    "instance": (0x00080018, "UI"),
    "modality": (0x00080060, "CS"),
    "description": (0x0008103E, "LO"),
    "patient": (0x00100010, "PN"),
    "thickness": (0x00180050, "DS"),
    "echo_time": (0x00180081, "DS"),
    "echo_number": (0x00180086, "IS"),
    "effective_echo_time": (0x00189082, "FD"),
    "echo": (0x00189114, "SQ"),
    "stack": (0x00209056, "SH"),
    "content": (0x00209111, "SQ"),
    "units": (0x00541001, "CS"),
    "study": (0x0020000D, "UI"),
    "patient_id": (0x00100020, "LO"),
    "series": (0x0020000E, "UI"),
    "series_number": (0x00200011, "IS"),
    "position": (0x00200032, "DS"),
    "orientation": (0x00200037, "DS"),
    "frame_of_reference": (0x00200052, "UI"),
    "samples": (0x00280002, "US"),
    "photometric": (0x00280004, "CS"),
    "frames": (0x00280008, "IS"),
    "rows": (0x00280010, "US"),
    "columns": (0x00280011, "US"),
    "spacing": (0x00280030, "DS"),
    "allocated": (0x00280100, "US"),
    "stored": (0x00280101, "US"),
    "high_bit": (0x00280102, "US"),
    "signed": (0x00280103, "US"),
    "intercept": (0x00281052, "DS"),
    "slope": (0x00281053, "DS"),
    "lookup_table": (0x00283000, "SQ"),
    "plane_position": (0x00209113, "SQ"),
    "plane_orientation": (0x00209116, "SQ"),
    "pixel_measures": (0x00289110, "SQ"),
    "value_transformation": (0x00289145, "SQ"),
    "shared_groups": (0x52009229, "SQ"),
    "frame_groups": (0x52009230, "SQ"),
    "pixels": (0x7FE00010, "OW"),
}
LONG = ("OW", "SQ")


def encoded(fields: dict, explicit: bool, undefined: bool) -> bytes:
    """The elements of `fields`, in the order of tags. `undefined`: sequences end with a delimiter."""
    fragments = fields.pop("fragments", None)
    if fragments is not None:
        fields["pixels"] = fragments
    content = b""
    for tag, kind, value in sorted((*FIELDS[name], value) for name, value in fields.items() if value is not None):
        if kind == "SQ":
            items = [encoded(item, explicit, undefined) for item in value]
            ends = (struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
            lengths = [0xFFFFFFFF if undefined else len(item) for item in items]
            heads = [struct.pack("<HHI", 0xFFFE, 0xE000, length) for length in lengths]
            value = b"".join(head + item + ends[0] * undefined for head, item in zip(heads, items, strict=True))
            length, value = (0xFFFFFFFF, value + ends[1]) if undefined else (len(value), value)
        else:
            if kind == "US":
                value = struct.pack("<H", value)
            elif kind == "FD":
                value = struct.pack("<d", value)
            elif kind != "OW":
                values = value if isinstance(value, (tuple, list)) else (value,)
                value = "\\".join(f"{one:.10g}" if isinstance(one, float) else str(one) for one in values).encode()
            value += (b"\0" if kind in ("UI", "OW") else b" ") * (len(value) % 2)
            length = len(value)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if not explicit:
            head += struct.pack("<I", length)
        elif kind == "OW" and fragments is not None:
            head += struct.pack("<2sHI", b"OB", 0, 0xFFFFFFFF)
        elif kind in LONG:
            head += struct.pack("<2sHI", kind.encode(), 0, length)
        else:
            head += struct.pack("<2sH", kind.encode(), length)
        content += head + value
    return content


def write_file(path: Path, array: np.ndarray, syntax: str = EXPLICIT, undefined: bool = False, **fields) -> None:
    """One DICOM file of stored values (rows, columns) or (frames, rows, columns). `fields` replace the usual ones."""
    array = np.asarray(array)
    kind = array.dtype if array.dtype.kind in "iu" else np.dtype(np.int16)
    bits = kind.itemsize * 8
    usual = {
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "sop_class": CT,
        "instance": "1.2.3",
        "modality": "CT",
        "patient": "Secret^Name",
        "study": "1.2",
        "series": "1.2.3",
        "frame_of_reference": "1.2.9",
        "orientation": (1, 0, 0, 0, 1, 0),
        "spacing": (0.75, 0.5),
        "samples": 1,
        "photometric": "MONOCHROME2",
        "rows": array.shape[-2],
        "columns": array.shape[-1],
        "allocated": bits,
        "stored": bits,
        "high_bit": bits - 1,
        "signed": int(kind.kind == "i"),
        "pixels": array.astype(kind.newbyteorder("<")).tobytes(),
    }
    meta = (
        b"\x02\0\x10\0UI"
        + struct.pack("<H", len(syntax) + len(syntax) % 2)
        + syntax.encode()
        + b"\0" * (len(syntax) % 2)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + meta + encoded(usual | fields, syntax != IMPLICIT, undefined))


def write_slices(folder: Path, array: np.ndarray, places=None, name="slice{}.dcm", each=None, **fields) -> Path:
    """A series with one file per slice. Names do not follow the places. Returns the folder.

    places: the positions, mm along z or (x, y, z); each: further fields of each slice.
    """
    places = [2.0 * number for number in range(len(array))] if places is None else places
    for number, (plane, place) in enumerate(zip(array, places, strict=True)):
        position = place if isinstance(place, (tuple, list, np.ndarray)) else (1, 2, place)
        own = {"position": tuple(position), "instance": f"1.2.3.{number + 1}"} | fields | (each[number] if each else {})
        write_file(folder / name.format(len(array) - number), plane, **own)
    return folder


def write_frames(path: Path, array: np.ndarray, places, slopes=None, **fields) -> Path:
    """One multi-frame file. Each frame has its place and its slope in functional groups. Returns the path."""
    slopes = slopes or [(1, 0)] * len(array)
    groups = [
        {
            "plane_position": [{"position": tuple(place)}],
            "value_transformation": [{"slope": slope, "intercept": intercept}],
        }
        for place, (slope, intercept) in zip(places, slopes, strict=True)
    ]
    shared = {"plane_orientation": [{"orientation": fields.pop("orientation", (1, 0, 0, 0, 1, 0))}]}
    shared |= {"pixel_measures": [{"spacing": fields.pop("spacing", (0.75, 0.5))}]}
    own = {"sop_class": ENHANCED_CT, "frames": len(array), "shared_groups": [shared], "frame_groups": groups}
    write_file(path, array, **({"orientation": None, "spacing": None} | own | fields))
    return path


@pytest.fixture
def write_series():
    return write_slices


@pytest.fixture
def write_multi_frame():
    return write_frames


@pytest.fixture
def write_dicom():
    return write_file


@pytest.fixture
def voxels() -> np.ndarray:
    """(5, 6, 7) stored values."""
    return np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def refused():
    """A function that returns the error of a scan, which has these words. Its values stay out, and its grid is read."""

    def check(path, *words):
        with pytest.raises(UserError) as caught:
            read_volume((path,))
        (line,) = caught.value.lines
        for word in words:
            assert word in line, line
        assert "Secret" not in line
        grid = read_geometry(path)  # does not raise
        assert grid is None or np.linalg.det(grid.affine)  # prediction turns it before the scan is read
        return line

    return check
