"""Writing label maps and maps of numbers, in the format that a file's name says: the only place that writes with
SimpleITK. A file is written whole or not at all."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.files import temporary_folder
from textdiffseg.imaging.sources.nifti import check_nifti
from textdiffseg.imaging.volume import Geometry


def write_labels(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write label values (D, H, W) on `geometry` in the smallest integer type that holds them."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    kind = next(
        kind
        for kind in (np.uint8, np.uint16, np.int16, np.int32)
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    )
    write_volume(path, array.astype(kind), geometry)


def write_volume(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write (D, H, W) on `geometry`, whole or not at all; the format follows the name's ending."""
    path = Path(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    affine = geometry.affine[:, [2, 1, 0, 3]]  # ITK's index order is (x, y, z) = (w, h, d)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    image.SetDirection([float(value) for value in (affine[:3, :3] / spacing).ravel()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as folder:
        try:
            sitk.WriteImage(image, str(folder / path.name), useCompression=True)
            check_nifti(folder / path.name)
        except (RuntimeError, UserError) as error:
            _write_failed(path, image, error)
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.parent / written.name)  # the header last, where the voxels have a file of their own


def _write_failed(path: Path, image: sitk.Image, error: Exception) -> None:
    """Tell a full disk from another failure; ITK reports both alike, or not at all."""
    need = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
    if shutil.disk_usage(path.parent).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    raise UserError(f"{path} cannot be written ({str(error).splitlines()[-1]}).") from error
