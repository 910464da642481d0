"""Writers of label maps and maps of numbers. The ending of the file decides the format. Files are complete or absent.

nibabel writes NIfTI, with the sform and qform of the scan. SimpleITK writes NRRD and MetaImage.
"""

import errno
import gzip
import os
import shutil
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.file_names import split_ending, written_ending
from textdiffseg.files import temporary_folder, write_atomically
from textdiffseg.imaging.forms import NiftiForms
from textdiffseg.imaging.sources.names import refuse_undecodable
from textdiffseg.imaging.volume import Geometry, in_file_order

_LEVEL = 6  # of gzip; level 9 does not make masks smaller


def write_labels(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write label values (D, H, W) on `geometry`, in the smallest integer type that fits them."""
    write_volume(path, smallest(array), geometry)


def smallest(array: np.ndarray) -> np.ndarray:
    """Label values in the smallest integer type of NIfTI that fits them."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    kind = next(
        kind
        for kind in (np.uint8, np.uint16, np.int16, np.int32)
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    )
    return array.astype(kind)


def write_volume(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write an array (D, H, W) on `geometry`. Raises `UserError` for an ending that is not written."""
    path = Path(path)
    array, geometry = in_file_order(array, geometry)
    ending = split_ending(path.name)[1]
    if not ending or written_ending(ending) != ending:
        raise UserError(f"{path}: {ending or 'this format'} is not written. Choose a name with .nii.gz or .nrrd.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending in (".nii", ".nii.gz"):
        content = nifti_content(array, geometry)
        write_atomically(path, gzip.compress(content, _LEVEL, mtime=0) if ending == ".nii.gz" else content)
    else:
        _write_itk(path, array, geometry)


def nifti_content(array: np.ndarray, geometry: Geometry) -> bytes:
    """The bytes of a NIfTI file of an array (D, H, W), in file order, with the forms of the scan.

    Without forms, both are made from `geometry`.
    """
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    large = max(array.shape) > np.iinfo(np.int16).max
    image = (Nifti2Image if large else Nifti1Image)(array.transpose(2, 1, 0), None)  # an affine would replace the forms
    forms = geometry.forms or NiftiForms.of(geometry.affine[:, [2, 1, 0, 3]])
    forms.write_into(image.header)
    return image.to_bytes()


def _write_itk(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    import SimpleITK as sitk

    refuse_undecodable(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    affine = geometry.affine[:, [2, 1, 0, 3]]  # ITK's index order is (x, y, z) = (w, h, d)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    image.SetDirection([float(value) for value in (affine[:3, :3] / spacing).ravel()])
    with temporary_folder(path) as folder:
        try:
            sitk.WriteImage(image, str(folder / path.name), useCompression=True)
        except RuntimeError as error:
            _write_failed(path, array.nbytes, error)
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.parent / written.name)  # the header last, if the voxels are in another file


def _write_failed(path: Path, need: int, error: Exception) -> None:
    """Raise `OSError` for a full disk, else `UserError`. ITK reports both in the same way."""
    if shutil.disk_usage(path.parent).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    raise UserError(f"{path} cannot be written ({str(error).splitlines()[-1]}).") from error
