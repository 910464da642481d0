"""DICOM series, read by SimpleITK."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.itk import quiet, volume_of_image
from textdiffseg.imaging.sources.names import is_decodable, refuse_undecodable
from textdiffseg.imaging.volume import Volume, refuse_flat

MAX_UNEVENNESS = 0.1  # deviation of a step between slices, relative to the median step


def read_series(folder: Path) -> Volume:
    """The only series in a folder, as (1, D, H, W) in its own number type. Raises `UserError` for other folders."""
    refuse_undecodable(folder)
    try:
        with quiet():
            image = _read_series(folder)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{folder} cannot be read as an image ({lines[-1] if lines else error}). Copy it again or remove it."
        ) from None
    volume = volume_of_image(image, str(folder))
    refuse_flat(volume.geometry.shape, str(folder))
    return volume


def series_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """The series in a folder: UID -> files, ordered along the patient.

    ITK cannot read a folder whose name is not in UTF-8. Its slices count as one series, which is refused later.
    """
    if not is_decodable(folder):
        slices = tuple(str(path) for path in sorted(folder.iterdir()) if path.is_file() and is_slice(path))
        return {"": slices} if slices else {}
    with quiet():
        names = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        return {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in names}


def source_slices(path: Path) -> tuple[Path, ...]:
    """The files of the series that `read_volume` reads from a folder, in the order of its slices (array axis D).

    Raises `UserError` for a folder without slices, or with several series.
    """
    return tuple(map(Path, _the_series(path)))


def is_slice(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _the_series(folder: Path) -> tuple[str, ...]:
    series = series_in(folder)
    if not series:
        raise UserError(f"{folder} is a folder without DICOM slices. Give the file in it, or a folder of slices.")
    if len(series) != 1:
        counts = ", ".join(f"{uid} ({len(files)} slices)" for uid, files in series.items())
        raise UserError(f"{folder}: expected one DICOM series, found {counts}. Put each series into its own folder.")
    (files,) = series.values()
    return files


def _read_series(folder: Path) -> sitk.Image:
    reader, files = sitk.ImageSeriesReader(), _the_series(folder)
    reader.SetFileNames(files)
    image = reader.Execute()
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation") and _uneven(files, image):
        raise UserError(
            f"{folder}: its slices are not evenly spaced. Either one is missing, or several have the same position, as "
            "phases do. Complete the series, or put each phase into its own folder."
        )
    return image


def _uneven(files: tuple[str, ...], image: sitk.Image) -> bool:
    """Whether a step between slices deviates too much. ITK also reports deviations by rounding."""
    reader, normal, places = sitk.ImageFileReader(), np.array(image.GetDirection()).reshape(3, 3)[:, 2], []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        places.append(np.dot(reader.GetOrigin(), normal))
    steps = np.diff(places)
    return bool(np.abs(steps - np.median(steps)).max() > MAX_UNEVENNESS * np.abs(np.median(steps)))
