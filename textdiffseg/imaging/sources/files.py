"""Readers of scans and label maps in any format.

Arrays are (C, D, H, W). The affine maps an index (d, h, w) to world LPS in mm. Unreadable and implausible files raise a
`UserError` that names the file.
"""

from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import is_archive_name, split_ending
from plans.plan import MAX_LABEL_VALUE
from textdiffseg.imaging.regrid import MIN_OVERLAP, RESAMPLED, overlap, regrid
from textdiffseg.imaging.sources.dicom.files import index_line, is_index, is_slice
from textdiffseg.imaging.sources.headers import VoxelBlock
from textdiffseg.imaging.sources.unread import is_zip_of_images, unread_line
from textdiffseg.imaging.volume import Geometry, Volume, describe, refuse_flat, refuse_unusable

MAX_ROUNDING = 0.01  # of label values; files with a scale factor cannot store all whole numbers exactly
_NIFTI = (".nii.gz", ".nii", ".hdr")
_META = (".mha", ".mhd")


def read_volume(
    paths: tuple[Path, ...], *, one_grid: bool = False, series: str | None = None, missing: tuple[int, ...] = ()
) -> Volume:
    """The scan (C, D, H, W). A channel on another grid is resampled to that of the first, with a note.

    Integers of at most two bytes keep their type, to save memory. All other numbers become float32.

    Args:
        paths: one file per channel, or one file with all channels. DICOM may be a folder of slices, a zip of slices,
            one slice of a series, or a multi-frame file.
        one_grid: refuse a channel on another grid. A training case is corrected once, not in each reading.
        series: UID of the DICOM series to read; None: the largest one.
        missing: the numbers of the channels that have no file. A file with several channels has all of them.

    Raises:
        UserError: a file cannot be read, or a channel covers too little of the first one's grid.
    """
    volumes = [_read_any(Path(path), series) for path in paths]
    if len(paths) == 1 and len(volumes[0].array) > 1:
        missing = ()
    numbers = [number for number in range(len(paths) + len(missing)) if number not in missing]
    for place, (path, volume) in enumerate(zip(paths, volumes, strict=True)):
        refuse_unusable(volume.array, str(path))
        if not volume.geometry.matches(volumes[0].geometry):
            if one_grid or overlap(volume.geometry, volumes[0].geometry) < MIN_OVERLAP:
                raise UserError(
                    f"{path}: its grid ({describe(volume.geometry)}) differs from that of {paths[0]} "
                    f"({describe(volumes[0].geometry)}). Resample all channels to one grid."
                )
            note = RESAMPLED.format(number=numbers[place], first=numbers[0])
            volumes[place] = _on_grid(volume, volumes[0].geometry, note)
    arrays = [volume.array for volume in volumes]
    for number in missing:
        arrays.insert(number, np.zeros_like(arrays[0]))
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    kind = joined.dtype if joined.dtype.kind in "iu" and joined.dtype.itemsize <= 2 else np.float32
    return Volume(np.ascontiguousarray(joined, dtype=kind), volumes[0].geometry, tuple(notes), missing)


def _on_grid(volume: Volume, geometry: Geometry, note: str) -> Volume:
    array = regrid(volume.array, volume.geometry, geometry)
    return Volume(array, geometry, (*volume.notes, note))


def read_labels(path: Path) -> Volume:
    """The label map as whole numbers (1, D, H, W) with the values of the file."""
    volume = _read_any(Path(path))
    array = volume.array
    if len(array) != 1:
        raise UserError(
            f"{path}: expected a label map with one value per voxel, found {len(array)}. Give a map of labels."
        )
    if array.dtype.kind == "f" and not all(map(_is_whole, array[0])):
        raise UserError(f"{path}: label values must be whole numbers, found other numbers or NaN. Round them.")
    low, high = array.min().item(), array.max().item()  # in single precision the limit would be rounded up
    if low < -MAX_LABEL_VALUE or high > MAX_LABEL_VALUE:
        raise UserError(
            f"{path}: expected label values of at most {MAX_LABEL_VALUE}, found {low:.10g} to {high:.10g}. Correct"
            " them."
        )
    if array.dtype.kind == "f":
        array = np.rint(array).astype(np.int64)
    return Volume(array, volume.geometry, volume.notes)


def _is_whole(plane: np.ndarray) -> bool:
    """Whether a plane of floats holds whole numbers. Planes are checked one by one, to save memory."""
    with np.errstate(invalid="ignore"):  # inf - inf
        return bool((np.abs(np.rint(plane) - plane) <= MAX_ROUNDING).all())


def read_geometry(path: Path, series: str | None = None) -> Geometry | None:
    """The grid of a scan from its headers; None for damaged files. `series`: UID of the DICOM series to read."""
    path = Path(path)
    try:
        if is_series(path):
            from textdiffseg.imaging.sources.dicom import read_series_geometry

            return read_series_geometry(path, series)
        if not path.is_file():
            return None
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
    """The files of a scan: a header and the file with its voxels, the slices of a DICOM slice's series, or one file."""
    try:
        if Path(path).is_file() and is_slice(Path(path)):
            from textdiffseg.imaging.sources.dicom import source_slices

            return source_slices(Path(path))
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


def is_series(path: Path) -> bool:
    """Whether a path is a folder, a zip, or a DICOM file, so that it is read as DICOM."""
    return path.is_dir() or (path.is_file() and (is_archive_name(path.name) or is_slice(path)))


def _voxel_file(path: Path, ending: str) -> Path:
    if ending in _NIFTI:
        from textdiffseg.imaging.sources.nifti import voxel_file

        return voxel_file(path)
    return _block(path, ending).path


def _read_any(path: Path, series: str | None = None) -> Volume:
    """An image in any format as (C, D, H, W), in its own number type. Raises `UserError` also for system errors."""
    try:
        return _read(path, series)
    except OSError as error:
        advice = "Correct its permissions" if isinstance(error, PermissionError) else "Copy it again or remove it"
        raise UserError(f"{path} cannot be read ({error.strerror}). {advice}.") from None


def _read(path: Path, series: str | None) -> Volume:
    if is_index(path) and path.exists():
        raise UserError(index_line(path))
    if is_series(path):
        from textdiffseg.imaging.sources.dicom import read_series

        if is_zip_of_images(path):
            raise UserError(unread_line(path))
        return read_series(path, series)
    path, ending = _header_of(path)
    refuse_no_file(path)
    if series is not None:
        raise UserError(f"{path} is not DICOM, so it has no series to choose from. Leave the UID out.")
    if not ending:
        raise UserError(unread_line(path))
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
