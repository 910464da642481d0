"""Reading scans from files: the only place that reads with SimpleITK.

Arrays come as (C, D, H, W); the affine maps (d, h, w) to world LPS in mm. What cannot be read, or reads as something
that cannot be right, is a `UserError` that names the file.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.nifti import check_nifti
from textdiffseg.imaging.volume import Geometry, Volume, describe, refuse_unusable

ROUNDED = 0.01  # label values so near to whole numbers are: files with a scale factor cannot hold all of them
UNEVEN = 0.1  # of the spacing, by which DICOM slices may lie off their places
_SMALL = 1 << 20  # bytes of a file that is cheaper to unpack once than to have ITK look into again and again


@contextmanager
def _quiet() -> Iterator[None]:
    """ITK prints no warnings; afterwards it does as before."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def read_volume(paths: tuple[Path, ...]) -> Volume:
    """Read a scan as float32 (C, D, H, W): one file a channel, or one file or DICOM folder with all of them."""
    volumes = [_read(Path(path)) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        refuse_unusable(volume.array, str(path))
        if not volume.geometry.matches(volumes[0].geometry):
            raise UserError(
                f"{path}: its grid ({describe(volume.geometry)}) differs from that of {paths[0]} "
                f"({describe(volumes[0].geometry)}). Resample all channels to one grid."
            )
    arrays = [volume.array for volume in volumes]
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Volume(np.ascontiguousarray(joined, dtype=np.float32), volumes[0].geometry)


def read_labels(path: Path) -> Volume:
    """Read a label map as whole numbers (1, D, H, W), the values as in the file."""
    volume = _read(Path(path))
    array = volume.array
    if len(array) != 1:
        raise UserError(f"{path}: a label map has one value a voxel, this one has {len(array)}.")
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.allclose(whole, array, rtol=0, atol=ROUNDED):
            raise UserError(f"{path}: label values must be whole numbers, found others (or NaN). Round them.")
        array = whole.astype(np.int64)
    return Volume(array, volume.geometry)


@_quiet()
def read_geometry(path: Path) -> Geometry | None:
    """The grid of a scan from its header alone; None where that does not tell it (DICOM folders, broken files)."""
    if not Path(path).is_file():
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return _geometry(reader, reader.GetSize()[2::-1]) if reader.GetDimension() in (3, 4) else None


@_quiet()
def _read(path: Path) -> Volume:
    """Any format, own number type, (C, D, H, W)."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    try:
        image = _read_series(path) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if "orthonormal" in str(error):
            raise UserError(
                f"{path}: its axes are not at right angles (or sform and qform are inconsistent). "
                "Write it anew with an orthonormal orientation."
            ) from None
        raise UserError(
            f"{path} cannot be read as an image ({lines[-1] if lines else error}). Copy it again or remove it."
        ) from None
    return volume_of_image(image, str(path))


def volume_of_image(image: sitk.Image, source: str) -> Volume:
    """(C, D, H, W) of an image in its own number type; `source` names it in errors."""
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() not in (3, 4) or (image.GetDimension() == 4 and channels > 1):
        raise UserError(f"{source}: expected a 3D image, found {image.GetDimension()} dimensions.")
    if channels > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() == 3:
        array = array[None]
    if min(array.shape[1:]) < 2:
        raise UserError(
            f"{source}: a single slice ({'x'.join(str(size) for size in array.shape[:0:-1])} voxels); "
            "expected a 3D image of at least two slices along each axis."
        )
    return Volume(array, _geometry(image, array.shape[1:]))


def _read_file(path: Path) -> sitk.Image:
    """ITK decompresses the beginning of a .nii.gz many times over, so a small one is handed to it unpacked."""
    if os.name == "posix" and path.name.endswith(".nii.gz") and path.stat().st_size < _SMALL:
        with tempfile.NamedTemporaryFile(suffix=".nii") as unpacked:
            check_nifti(path, unpacked)
            unpacked.flush()
            return sitk.ReadImage(unpacked.name)
    check_nifti(path)
    return sitk.ReadImage(str(path))


def _geometry(image: sitk.Image | sitk.ImageFileReader, shape: Sequence[int]) -> Geometry:
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()[:3]))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()[:3]
    d, h, w = shape
    return Geometry((d, h, w), affine)


def _read_series(folder: Path) -> sitk.Image:
    series = series_in(folder)
    if len(series) != 1:
        counts = ", ".join(f"{uid} ({len(files)} slices)" for uid, files in series.items()) or "none"
        raise UserError(f"{folder}: expected one DICOM series, found {counts}. Put each in a folder of its own.")
    reader = sitk.ImageSeriesReader()
    (files,) = series.values()
    reader.SetFileNames(files)
    image = reader.Execute()
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation") and _uneven(files, image):
        raise UserError(
            f"{folder}: its slices are not evenly spaced: one is missing, or several lie at one position (phases of "
            "one series, say). Complete the series, or put each phase in a folder of its own."
        )
    return image


def _uneven(files: tuple[str, ...], image: sitk.Image) -> bool:
    """Whether a slice lies off its place; ITK notes deviations of a rounding error, too, and not how large they are."""
    reader, normal, places = sitk.ImageFileReader(), np.array(image.GetDirection()).reshape(3, 3)[:, 2], []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        places.append(np.dot(reader.GetOrigin(), normal))
    steps = np.diff(places)
    return bool(np.abs(steps - np.median(steps)).max() > UNEVEN * np.abs(np.median(steps)))


@_quiet()
def series_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """The DICOM series in a folder: uid -> files in their order along the patient."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in names}
