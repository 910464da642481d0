"""Scans in memory: arrays of numpy and torch, and images of nibabel, SimpleITK and MONAI.

Arrays are (z, y, x) or (C, z, y, x). z increases to superior, y to posterior, and x to the patient's left (LPS). With
`affine` an array may have any order of axes. The affine maps an index of the array to world coordinates in mm, as in
nibabel: x increases to the right, y to anterior, z to superior (RAS+). A mask is written with the axes of its array.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plans.errors import UserError
from plans.geometry import triple
from textdiffseg.arguments import path_of
from textdiffseg.imaging.forms import ANALYZE, RAS_TO_LPS, NiftiForms, affine_of_header
from textdiffseg.imaging.grids import straighten
from textdiffseg.imaging.sources.tensors import (
    SOURCE,
    array_of,
    header_of,
    is_metatensor,
    is_of_analyze,
    is_tensor,
    single,
    values_and_affine,
)
from textdiffseg.imaging.volume import Geometry, Volume, refuse_unusable

if TYPE_CHECKING:
    import SimpleITK as sitk
    from nibabel.spatialimages import SpatialImage
    from torch import Tensor

    Scan = (
        str
        | Path
        | Sequence[str | Path | None]
        | Mapping[str, str | Path | None]
        | np.ndarray
        | Tensor
        | SpatialImage
        | sitk.Image
    )


def volume_of(
    scan: "Scan",
    spacing: Sequence[float] | None = None,
    affine: np.ndarray | Sequence[Sequence[float]] | None = None,
    series: str | None = None,
    channels: Sequence[str] = (),
) -> Volume:
    """The scan as a float32 `Volume` with its own axes.

    Args:
        scan: a file, a DICOM folder, a list of files (one per channel; None: it is missing), a dict of files by the
            channel's name, an array or tensor, or an image of nibabel, SimpleITK or MONAI.
        spacing: mm along (z, y, x), for an array.
        affine: (4, 4), for an array, instead of `spacing`.
        series: UID of the DICOM series to read; None: the largest one.
        channels: the names of the channels, for a dict. Names that the dict lacks are missing.

    Raises:
        UserError: the scan cannot be read, or its place in space is unknown.
    """
    if isinstance(scan, Mapping):
        scan = _in_order(scan, channels)
    if series is not None and not isinstance(scan, (str, Path, list, tuple)):
        raise UserError("series= is for DICOM files only. Leave it out.")
    if is_tensor(scan) and not is_metatensor(scan):
        scan = array_of(scan)
    if isinstance(scan, np.ndarray):
        return _of_array(scan, spacing, affine)
    if isinstance(scan, (list, tuple)):
        _refuse_other_than_paths(scan)
    if spacing is not None or affine is not None:
        raise UserError("spacing= and affine= are for arrays only, as this scan has its own grid. Leave them out.")
    if isinstance(scan, (str, Path)):
        return _of_files([scan], series)
    if isinstance(scan, (list, tuple)):
        return _of_files(scan, series)
    if is_metatensor(scan):
        return _of_metatensor(single(scan))
    library = type(scan).__module__.partition(".")[0]
    if library == "nibabel" and hasattr(scan, "dataobj"):
        return _of_nibabel(scan)
    if library == "SimpleITK":
        return _of_simpleitk(scan)
    raise UserError(
        f"A {type(scan).__name__} cannot be segmented: give a path, a list of paths (one per channel), an array or "
        "tensor with its spacing, or an image of nibabel, SimpleITK or MONAI."
    )


def _in_order(scan: Mapping[str, str | Path | None], channels: Sequence[str]) -> list[str | Path | None]:
    """The files in the order of the channels."""
    if held := [name for name, value in scan.items() if hasattr(value, "shape")]:
        raise UserError(f"A dict is for files, one for each channel. Give the scan in it: scan[{held[0]!r}].")
    given = {str(name).strip().casefold(): file for name, file in scan.items()}
    if len(given) < len(scan):
        raise UserError(f"Two of the channels {', '.join(map(str, scan))} differ only in capitals or spaces.")
    names = [name.strip().casefold() for name in channels]
    if unknown := [name for name in scan if str(name).strip().casefold() not in names]:
        raise UserError(f"{unknown[0]!r} is not a channel of the model. Its channels: {', '.join(channels)}.")
    if double := [name for name in scan if names.count(str(name).strip().casefold()) > 1]:
        raise UserError(
            f"The model has several channels called {double[0]}. Give the files as a list, in the order of its "
            f"channels: {', '.join(channels)}."
        )
    return [given.get(name) for name in names]


def _refuse_other_than_paths(scan: Sequence[Any]) -> None:
    for number, path in enumerate(scan):
        if path is not None and not isinstance(path, (str, Path)):
            found = type(path).__name__
            raise UserError(
                f"channel {number}: expected a path, or None if it is missing, found a {found}. Give channels of "
                "numbers as one array: numpy.stack."
            )


def _of_files(paths: Sequence[str | Path | None], series: str | None) -> Volume:
    from textdiffseg.imaging.sources.files import read_volume

    files = tuple(path_of(path) for path in paths if path is not None)
    if not files:
        raise UserError("The scan has no channel: expected the path of at least one.")
    missing = tuple(number for number, path in enumerate(paths) if path is None)
    return read_volume(files, series=series, missing=missing)


def _of_array(array: np.ndarray, spacing: Sequence[float] | None, affine: Any) -> Volume:
    if (spacing is None) == (affine is None):
        raise UserError("An array needs its place in space: give either spacing=(z, y, x) in mm, or affine=.")
    if np.ma.is_masked(array):
        hidden = np.ma.count_masked(array)
        raise UserError(f"the array: {hidden} voxels are masked, so they have no value. Give them one with filled().")
    if affine is not None:
        return _placed(array, affine, None, "the array")
    steps = _reals(spacing)
    if steps.shape != (3,) or not np.isfinite(steps).all() or steps.min() <= 0:
        raise UserError(f"spacing: expected three numbers above 0, in mm along (z, y, x), found {spacing}.")
    lps = np.zeros((4, 4))
    lps[[2, 1, 0], [0, 1, 2]], lps[3, 3] = steps, 1  # index (z, y, x) -> world (x, y, z)
    return _volume(array, lps, "the array")


def _reals(values: Any) -> np.ndarray:
    """The numbers as an array of floats; NaN where they are not real numbers."""
    try:
        found = np.asarray(values)
        return found.astype(float) if found.dtype.kind in "biufUO" else np.array(np.nan)
    except (TypeError, ValueError, OverflowError):
        return np.array(np.nan)


def _checked_affine(affine: Any) -> np.ndarray:
    found = _reals(affine)
    if found.shape != (4, 4) or not np.isfinite(found).all() or not np.array_equal(found[3], (0, 0, 0, 1)):
        raise UserError("affine: expected a finite (4, 4) matrix whose last row is 0, 0, 0, 1.")
    return found


def _of_nibabel(image: Any) -> Volume:
    """A nibabel image as a `Volume`. A NIfTI header gives the grid and the notes, as for a file."""
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header

    source = "the nibabel image"
    if isinstance(image.header, AnalyzeHeader) and not isinstance(image.header, Nifti1Header):  # its subclass
        raise UserError(ANALYZE.format(source=source))
    try:
        array = np.asanyarray(image.dataobj)  # reads the file, if the image has one
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{source}: its voxels cannot be read ({error}). Copy its file again.") from None
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI keeps the fourth axis for time
        array = array[:, :, :, 0]
    if array.ndim == 4:  # channels last
        array = np.moveaxis(array, -1, 0)
    return _placed(array, image.affine, image.header if hasattr(image.header, "get_sform") else None, source)


def _of_metatensor(scan: Any) -> Volume:
    """A MetaTensor as a `Volume`. The NIfTI header that MONAI has kept gives the grid and the notes, as for a file."""
    if is_of_analyze(scan):
        raise UserError(ANALYZE.format(source=SOURCE))
    array, affine = values_and_affine(scan)
    return _placed(array, affine, header_of(scan), SOURCE)


def _placed(array: np.ndarray, affine: Any, header: Any, source: str) -> Volume:
    """An array ([C,] x, y, z) as a `Volume`. Its forms are those of the header, if this has the same affine.

    affine (4, 4): an index to RAS+ in mm. header: of NIfTI; None: there is none.
    """
    affine = _checked_affine(affine)
    if array.ndim in (3, 4) and header is not None and _is_of_header(affine, header):
        lps, forms, notes = affine_of_header(header, triple(array.shape[-3:]), source)
        volume = _volume(array, lps, source, notes)
    else:
        volume = _volume(array, RAS_TO_LPS @ affine, source)
        forms = NiftiForms.of(volume.geometry.affine)
    return replace(volume, geometry=replace(volume.geometry, forms=forms))


def _is_of_header(affine: np.ndarray, header: Any) -> bool:
    """Whether the affine equals the header's. That of an image in memory may differ."""
    try:
        return np.allclose(header.get_best_affine(), affine, atol=1e-4)
    except (ValueError, ArithmeticError):  # damaged fields of a header in memory
        return False


def _of_simpleitk(image: Any) -> Volume:
    from textdiffseg.imaging.sources.itk import volume_of_image

    source = "the SimpleITK image"
    volume = volume_of_image(image, source)
    notes = volume.notes
    if (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()) == (1, 1, 1, 0, 0, 0, *np.eye(3).ravel()):
        notes += (
            f"{source} has the grid of an array without a place: 1 mm, origin 0. If that is wrong, call SetSpacing.",
        )
    return _volume(volume.array, volume.geometry.affine, source, notes)


def _volume(array: np.ndarray, affine: np.ndarray, source: str, notes: tuple[str, ...] = ()) -> Volume:
    """The checked volume, with channels first. `affine` maps an index of the array to world LPS in mm."""
    if array.dtype.kind not in "biuf":
        advice = "Take their magnitude: numpy.abs." if array.dtype.kind == "c" else "Convert it to float32."
        raise UserError(f"{source}: expected whole or real numbers, found {array.dtype}. {advice}")
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or min(array.shape[1:], default=0) < 2:
        raise UserError(
            f"{source}: expected (z, y, x) or (C, z, y, x) with at least two voxels along each axis, found the shape "
            f"{array.shape}."
        )
    refuse_unusable(array, source)
    shape = triple(array.shape[1:])
    affine, more = straighten(affine, shape, source)
    return Volume(np.ascontiguousarray(array, dtype=np.float32), Geometry(shape, affine), (*notes, *more))
