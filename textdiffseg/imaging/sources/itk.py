"""NRRD and MetaImage files, and images of SimpleITK. ITK provides the grid.

The voxels' bytes are read and checked here, as ITK does not detect a damaged compressed stream.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from plans.errors import UserError
from plans.geometry import triple
from textdiffseg.imaging.grids import straighten
from textdiffseg.imaging.sources.headers import VoxelBlock
from textdiffseg.imaging.sources.names import refuse_undecodable
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.shared_setting import SharedSetting

_LABEL_MAPS = (sitk.sitkLabelUInt8, sitk.sitkLabelUInt16, sitk.sitkLabelUInt32, sitk.sitkLabelUInt64)
_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_WARNINGS = SharedSetting(
    sitk.ProcessObject.GetGlobalWarningDisplay, sitk.ProcessObject.SetGlobalWarningDisplay
)  # whether ITK prints them


def quiet_itk() -> AbstractContextManager[None]:
    """A context without ITK's warnings. Several threads may be inside it."""
    return _WARNINGS.set_to(False)


def read_itk(path: Path, block: VoxelBlock) -> Volume:
    """The image in a file as (C, D, H, W), in its own number type; float32 if the header has a scale.

    `block` has the voxels that its header declares.
    """
    reader = _informed(path, block)
    array = _arranged(block, reader)
    if array is None:
        block.read()  # checks the values; ITK then reads the file again
        volume = volume_of_image(_execute(reader, path), str(path))
    else:
        volume = Volume(array, *_geometry(reader, array.shape[1:], str(path)))
    array = volume.array
    if block.scale != (1.0, 0.0):
        from textdiffseg.imaging.sources.scaling import scaled

        array = scaled(array, *block.scale)
    return replace(volume, array=array, notes=(*block.notes, *volume.notes))


def read_itk_geometry(path: Path, block: VoxelBlock) -> Geometry | None:
    """The grid from the header alone; None if the image is not 3D."""
    reader = _informed(path, block)
    if reader.GetDimension() not in (3, 4):
        return None
    return _geometry(reader, reader.GetSize()[2::-1], str(path))[0]


def volume_of_image(image: sitk.Image, source: str) -> Volume:
    """A SimpleITK image as (C, D, H, W), in its own number type. `source` is its name in messages."""
    if image.GetPixelID() in _LABEL_MAPS:  # ITK would end the process
        raise UserError(f"{source} is a label map of ITK. Convert it with SimpleITK.Cast(image, SimpleITK.sitkUInt8).")
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() not in (3, 4) or (image.GetDimension() == 4 and channels > 1):
        raise UserError(f"{source}: expected a 3D image, found {image.GetDimension()} dimensions.")
    if channels > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() == 3:
        array = array[None]
    geometry, notes = _geometry(image, array.shape[1:], source)
    return Volume(array, geometry, notes)


def _informed(path: Path, block: VoxelBlock) -> sitk.ImageFileReader:
    """A reader that has read the header. Raises `UserError` if it contradicts `block`."""
    refuse_undecodable(path)
    block.check_size()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_READERS.get(path.suffix.lower(), "NrrdImageIO"))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    if prod(reader.GetSize()) * reader.GetNumberOfComponents() != block.count:
        raise UserError(f"{path} cannot be read as an image (its sizes contradict each other). Save it again.")
    return reader


def _execute(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    try:
        with quiet_itk():
            return reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: RuntimeError) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else error
    return UserError(f"{path} cannot be read as an image ({reason}). Copy it again or remove it.")


def _arranged(block: VoxelBlock, reader: sitk.ImageFileReader) -> np.ndarray | None:
    """The voxels (C, D, H, W); None if the axis of the channels is not clear."""
    sizes, channels, dimension = reader.GetSize(), reader.GetNumberOfComponents(), reader.GetDimension()
    if dimension not in (3, 4) or (dimension == 4 and channels > 1):
        raise UserError(f"{reader.GetFileName()}: expected a 3D image, found {dimension} dimensions.")
    if channels == 1 and block.sizes == sizes:
        array = block.read()
        return array if dimension == 4 else array[None]
    if channels > 1 and block.sizes == (channels, *sizes) and (block.channels_first or channels not in sizes):
        return np.moveaxis(block.read(), -1, 0)
    return None


def _geometry(
    image: sitk.Image | sitk.ImageFileReader, shape: tuple[int, ...], source: str
) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of an image, and notes for the user."""
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()[:3]))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine, notes = straighten(affine, shape, source)
    return Geometry(triple(shape), affine), notes
