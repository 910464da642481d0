"""Readers of scans and label maps in any format.

Arrays are (C, D, H, W). The affine maps an index (d, h, w) to world LPS in mm. Unreadable and implausible files raise a
`UserError` that names the file.
"""

from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import FILE_ENDINGS, split_ending
from plans.plan import MAX_LABEL_VALUE
from textdiffseg.imaging.sources.headers import VoxelBlock
from textdiffseg.imaging.volume import Geometry, Volume, describe, refuse_flat, refuse_unusable

MAX_ROUNDING = 0.01  # of label values; files with a scale factor cannot store all whole numbers exactly
_NIFTI = (".nii.gz", ".nii", ".hdr")
_META = (".mha", ".mhd")


def read_volume(paths: tuple[Path, ...]) -> Volume:
    """The scan (C, D, H, W). `paths`: one file per channel, or one file or DICOM folder with all.

    Integers of at most two bytes keep their type, to save memory. All other numbers become float32.
    """
    volumes = [_read_any(Path(path)) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        refuse_unusable(volume.array, str(path))
        if not volume.geometry.matches(volumes[0].geometry):
            raise UserError(
                f"{path}: its grid ({describe(volume.geometry)}) differs from that of {paths[0]} "
                f"({describe(volumes[0].geometry)}). Resample all channels to one grid."
            )
    arrays = [volume.array for volume in volumes]
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    kind = joined.dtype if joined.dtype.kind in "iu" and joined.dtype.itemsize <= 2 else np.float32
    return Volume(np.ascontiguousarray(joined, dtype=kind), volumes[0].geometry, tuple(notes))


def read_labels(path: Path) -> Volume:
    """The label map as whole numbers (1, D, H, W) with the values of the file."""
    volume = _read_any(Path(path))
    array = volume.array
    if len(array) != 1:
        raise UserError(
            f"{path}: expected a label map with one value per voxel, found {len(array)}. Give a map of labels."
        )
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.allclose(whole, array, rtol=0, atol=MAX_ROUNDING):
            raise UserError(f"{path}: label values must be whole numbers, found other numbers or NaN. Round them.")
        array = whole
    low, high = array.min(), array.max()
    if low < -MAX_LABEL_VALUE or high > MAX_LABEL_VALUE:
        raise UserError(
            f"{path}: expected label values of at most {MAX_LABEL_VALUE}, found {low:g} to {high:g}. Correct them."
        )
    if array.dtype.kind == "f":
        array = array.astype(np.int64)
    return Volume(array, volume.geometry, volume.notes)


def read_geometry(path: Path) -> Geometry | None:
    """The grid of a scan from its header alone; None for DICOM folders and damaged files."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        path, ending = _header_of(path)
        if ending in _NIFTI:
            from textdiffseg.imaging.sources.nifti import read_nifti_geometry

            return read_nifti_geometry(path)
        if not ending:
            return None
        from textdiffseg.imaging.sources.itk import read_itk_geometry

        return read_itk_geometry(path, _block(path, ending))
    except (UserError, OSError):
        return None


def files_of(path: Path) -> tuple[Path, ...]:
    """The file of a scan. If it is only a header (.mhd, .nhdr, .hdr), the file with its voxels follows."""
    try:
        path, ending = _header_of(Path(path))
        if ending not in (".mhd", ".nhdr", ".hdr") or not path.is_file():
            return (path,)
        voxels = _voxel_file(path, ending)
    except (UserError, OSError):  # reported when the scan is read
        return (path,)
    return (path,) if voxels == path else (path, voxels)


def refuse_no_file(path: Path) -> None:
    """Raise `UserError` where there is no plain file. A pipe is not one: reading it could wait for ever."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} does not exist: it is a link that leads nowhere. Copy its file there.")
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(f"{path} is not a plain file. Give a scan, or a folder of DICOM slices.")


def _voxel_file(path: Path, ending: str) -> Path:
    if ending in _NIFTI:
        from textdiffseg.imaging.sources.nifti import voxel_file

        return voxel_file(path)
    return _block(path, ending).path


def _read_any(path: Path) -> Volume:
    """An image in any format as (C, D, H, W), in its own number type. Raises `UserError` also for system errors."""
    try:
        return _read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Copy it again or remove it.") from None


def _read(path: Path) -> Volume:
    if path.is_dir():
        from textdiffseg.imaging.sources.dicom import read_series

        return read_series(path)
    path, ending = _header_of(path)
    refuse_no_file(path)
    if not ending:
        raise UserError(f"{path}: its format is not read. Convert it to one of {', '.join(FILE_ENDINGS)}.")
    if ending in _NIFTI:
        from textdiffseg.imaging.sources.nifti import read_nifti

        volume = read_nifti(path)
    else:
        from textdiffseg.imaging.sources.itk import read_itk

        volume = read_itk(path, _block(path, ending))
    refuse_flat(volume.geometry.shape, str(path))
    return volume


def _header_of(path: Path) -> tuple[Path, str]:
    """The file to read first, and its ending. For a pair it is the header."""
    ending = split_ending(path.name)[1]
    if path.suffix.lower() != ".img":
        return path, ending
    names = [f"{path.stem}{other}" for other in (".hdr", ".HDR")]
    found = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if found is None:
        raise UserError(f"{path}: its header {names[0]} is missing. Put it beside the voxels.")
    return found, ".hdr"


def _block(path: Path, ending: str) -> VoxelBlock:
    if ending in _META:
        from textdiffseg.imaging.sources.metaimage import read_block
    else:
        from textdiffseg.imaging.sources.nrrd import read_block
    return read_block(path)
