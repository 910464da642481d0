"""NIfTI files of both versions: one file or a pair, compressed or not, with any name.

nibabel reads the header and scales the values. `streams` reads the bytes, because nibabel checks neither the declared
size nor the checksum after the voxels.
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from plans.errors import UserError
from plans.geometry import Triple, triple
from textdiffseg.imaging.forms import ANALYZE, affine_of_header
from textdiffseg.imaging.sources.formats import GZIP
from textdiffseg.imaging.sources.neighbours import neighbour
from textdiffseg.imaging.sources.scaling import scaled
from textdiffseg.imaging.sources.streams import Damaged, Stream, check_declared, read_voxels, reported_as_damage
from textdiffseg.imaging.volume import Geometry, Volume

_HEADERS = {348: Nifti1Header, 540: Nifti2Header}
_MAGIC = {b"n+1": False, b"ni1": True, b"n+2": False, b"ni2": True}  # -> whether the voxels are in another file
_DIMENSIONS = 7


@dataclass(frozen=True)
class _Header:
    """The voxels that a NIfTI header declares."""

    fields: Nifti1Header
    shape: Triple  # along i, j, k
    channels: int
    dtype: np.dtype
    offset: int  # of the voxels
    pair: bool  # the voxels are in another file

    def held_in(self, path: Path, compressed: bool) -> int:
        """The bytes of a file that may hold the voxels."""
        return path.stat().st_size - (0 if compressed else self.offset)


def read_nifti(path: Path) -> Volume:
    """The image as (C, D, H, W) in its own number type; float32 if the header has a scale."""
    with reported_as_damage(path), path.open("rb") as file:
        compressed = _is_compressed(path)
        stream = Stream(file, compressed)
        header, read = _read_header(stream, path)
        if header.pair:
            voxels = _read_pair(path, header)
        else:
            _skip(stream, header.offset - read)
            held = header.held_in(path, compressed)
            voxels = read_voxels(stream, (header.channels, *header.shape[::-1]), header.dtype, held, compressed)
    if not header.dtype.isnative:
        voxels = voxels.astype(header.dtype.newbyteorder("="))
    geometry, notes = _geometry(header, path)
    return Volume(_scaled(voxels, header.fields, path), geometry, notes)


def read_nifti_geometry(path: Path) -> Geometry:
    """The grid, from the header alone. Raises `UserError` where the file is too small for it."""
    with reported_as_damage(path), path.open("rb") as file:
        header, _ = _read_header(Stream(file, _is_compressed(path)), path)
        voxels = _voxel_file(path) if header.pair else path
        compressed = _is_compressed(voxels)
        size = header.channels * prod(header.shape) * header.dtype.itemsize
        check_declared(size, header.held_in(voxels, compressed), compressed)
    return _geometry(header, path)[0]


def voxel_file(path: Path) -> Path:
    """The file with the voxels: the other file of a pair, or `path` itself."""
    with reported_as_damage(path), path.open("rb") as file:
        header, _ = _read_header(Stream(file, _is_compressed(path)), path)
    return _voxel_file(path) if header.pair else path


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _read_header(stream: Stream, path: Path) -> tuple[_Header, int]:
    """The header, and its size in bytes. Raises `Damaged` and `UserError`."""
    first = stream.read(4)
    if len(first) < 4:
        raise Damaged("no NIfTI header")
    order = next((order for order in "<>" if struct.unpack(f"{order}i", first)[0] in _HEADERS), None)
    if order is None:
        raise Damaged("no NIfTI header")
    size = struct.unpack(f"{order}i", first)[0]
    block = first + stream.read(size - 4)
    if len(block) < size:
        raise Damaged(f"{len(block)} of {size} bytes of its header")
    fields = _HEADERS[size](block, endianness=order, check=False)
    magic = bytes(fields["magic"])[:3]
    if magic not in _MAGIC:
        raise UserError(ANALYZE.format(source=path))
    shape, channels = _shape(fields, path)
    return _Header(fields, shape, channels, _dtype(fields, path), _offset(fields, size, magic), _MAGIC[magic]), size


def _shape(fields: Nifti1Header, path: Path) -> tuple[Triple, int]:
    """The sizes along (i, j, k), and the number of channels, which are along the fourth or the fifth axis."""
    count, *sizes = (int(value) for value in fields["dim"])
    if not 1 <= count <= _DIMENSIONS:
        raise Damaged(f"its header declares {count} dimensions")
    sizes = [max(size, 1) if axis >= 3 and size == 0 else size for axis, size in enumerate(sizes[:count])]
    if min(sizes) < 1:
        raise Damaged(f"its header declares a size of {min(sizes)}")
    rest = [size for size in sizes[3:] if size > 1]
    if count < 3 or len(rest) > 1:
        raise UserError(f"{path}: expected a 3D image, found {count} dimensions ({'x'.join(map(str, sizes))} voxels).")
    return triple(sizes[:3]), rest[0] if rest else 1


def _dtype(fields: Nifti1Header, path: Path) -> np.dtype:
    """The number type of the voxels. The header's `bitpix` is not used, as it may contradict the type."""
    try:
        dtype = fields.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.kind == "c":
        raise UserError(f"{path}: its voxels are complex numbers, expected real ones. Save their magnitude.")
    if dtype.kind == "V" and dtype.names:
        raise UserError(f"{path}: its voxels are colours (RGB), expected one number each. Save them as grey values.")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        code = int(fields["datatype"])
        raise UserError(f"{path}: its voxels have the data type {code}, which is not supported. Save them as float32.")
    return dtype


def _offset(fields: Nifti1Header, size: int, magic: bytes) -> int:
    found = float(fields["vox_offset"])
    first = 0 if _MAGIC[magic] else size + 4  # four bytes announce extensions
    if found == 0:
        return first
    if not first <= found < 1 << 40:
        raise Damaged(f"its header places the voxels at byte {found:g}")
    return int(found)


def _read_pair(path: Path, header: _Header) -> np.ndarray:
    place = _voxel_file(path)
    with reported_as_damage(place), place.open("rb") as file:
        compressed = _is_compressed(place)
        stream = Stream(file, compressed)
        _skip(stream, header.offset)
        held = header.held_in(place, compressed)
        return read_voxels(stream, (header.channels, *header.shape[::-1]), header.dtype, held, compressed)


def _voxel_file(path: Path) -> Path:
    """The `.img` file of a `.hdr` file."""
    names = [f"{path.stem}{ending}" for ending in (".img", ".IMG", ".img.gz")]
    found = next((name for name in names if (path.parent / name).is_file()), names[0])
    return neighbour(path, found)


def _skip(stream: Stream, count: int) -> None:
    """Skip `count` bytes, the extensions of a header, up to the voxels."""
    while count > 0:
        step = min(count, 1 << 20)
        if len(stream.read(step)) < step:
            raise Damaged("it ends before its voxels begin")
        count -= step


def _geometry(header: _Header, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    affine, forms, notes = affine_of_header(header.fields, header.shape, str(path))
    return Geometry(triple(header.shape[::-1]), affine[:, [2, 1, 0, 3]], forms), notes


def _scaled(voxels: np.ndarray, fields: Nifti1Header, path: Path) -> np.ndarray:
    """The voxels with the header's slope and intercept."""
    try:
        slope, intercept = fields.get_slope_inter()
    except HeaderDataError as error:
        raise UserError(f"{path}: {error}. Write correct scl_slope and scl_inter into its header.") from None
    return voxels if (slope, intercept) in ((None, None), (1.0, 0.0)) else scaled(voxels, slope, intercept)
