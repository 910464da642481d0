"""The slices of a series as one grid in space. Slices that are not a regular stack are refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from plans.errors import UserError, listed
from textdiffseg.imaging.sources.dicom.instances import (
    FRAME_OF_REFERENCE,
    KINDS,
    LOOKUP_TABLE,
    PATIENT_ID,
    Frame,
)
from textdiffseg.imaging.sources.dicom.series import Series
from textdiffseg.imaging.sources.numerals import real_number

MAX_UNEVENNESS = 0.1  # deviation of a step between slices, relative to the median step
MAX_TURN = 1e-3  # difference between the orientations of two slices, as of unit vectors
MAX_ROUNDING = 0.01  # difference between two echo times or b-values that are the same, relative to the larger one
MAX_SIDEWAYS_PIXELS = 0.5  # deviation of a slice from the line through the corners of all slices
_MEASURED = ("EchoTime", "EffectiveEchoTime", "DiffusionBValue")  # of `KINDS`; the others are names and numbers


@dataclass(frozen=True)
class Stack:
    """The frames in order along the normal of their planes, and their grid."""

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]  # (slices, rows, columns)
    affine: np.ndarray  # (4, 4): index (d, h, w, 1) -> world LPS in mm; the first column may be tilted


def stack(series: Series, source: str) -> Stack:
    """The stack of a series. `source` is its name in messages. Raises `UserError` with the advice to correct it."""
    where = f"{source}: series {series.uid}"
    frames = series.frames
    _refuse_mixed(series, frames, where)
    axes = _axes(frames, where)
    places = np.array([_known(frame.position, frame, "ImagePositionPatient") for frame in frames])
    order = np.argsort(places @ axes[2], kind="stable")
    frames, places = tuple(frames[number] for number in order), places[order]
    _refuse_uneven(frames, places @ axes[2], where)
    between_rows, between_columns = _known(frames[0].spacing, frames[0], "PixelSpacing")
    if min(between_rows, between_columns) <= 0:
        raise frames[0].instance.wrong("PixelSpacing", f"{between_rows:g}\\{between_columns:g}")
    step = (places[-1] - places[0]) / max(1, len(places) - 1)
    apart = (places - (places[0] + np.arange(len(places))[:, None] * step)) @ axes[:2].T
    if np.abs(apart / (between_columns, between_rows)).max() > MAX_SIDEWAYS_PIXELS:
        raise UserError(f"{where}: its slices are shifted sideways against each other. Export it again as one stack.")
    affine = np.eye(4)
    affine[:3] = np.stack([step, axes[1] * between_rows, axes[0] * between_columns, places[0]], axis=1)
    rows, columns = frames[0].instance.shape
    return Stack(frames, (len(frames), rows, columns), affine)


def plane_affine(orientation: ArrayLike, spacing: ArrayLike, position: ArrayLike) -> np.ndarray:
    """The plane of a slice (4, 3): (row, column, 1) -> world LPS in mm (PS3.3, C.7.6.2.1.1).

    Args:
        orientation: ImageOrientationPatient (6,), the direction along a row, then that along a column.
        spacing: PixelSpacing (2,), mm between rows, then between columns.
        position: ImagePositionPatient (3,), of the centre of the first pixel in mm.
    """
    along_row, along_column = np.array(orientation, float).reshape(2, 3)
    steps, plane = np.array(spacing, float), np.zeros((4, 3))
    plane[:3, 0], plane[:3, 1] = along_column * steps[0], along_row * steps[1]
    plane[:, 2] = *np.array(position, float), 1
    return plane


def affine_in_order(frames: Mapping[int, Frame], count: int) -> np.ndarray | None:
    """The affine (4, 4) of `count` slices, from some of them; None unless these lie at even steps in their order.

    `frames`: by their places among the slices, the first and the last one included. A tilt is left out, as the scan is
    resampled to a straight grid.
    """
    where = frames[0].instance.source.name
    axes, numbers = _axes(tuple(frames.values()), where), np.array(list(frames))
    positions = np.array([_known(frame.position, frame, "ImagePositionPatient") for frame in frames.values()])
    spacing = _known(frames[0].spacing, frames[0], "PixelSpacing")
    places = positions @ axes[2]  # mm along the normal
    step = (places[numbers == count - 1] - places[numbers == 0]) / max(1, count - 1)
    uneven = np.abs(places - places[numbers == 0] - numbers * step) > MAX_UNEVENNESS * np.abs(step)
    if uneven.any() or not step or min(spacing) <= 0:
        return None
    affine = np.eye(4)
    lengths = np.array([abs(step[0]), *spacing])
    affine[:3, :3], affine[:3, 3] = (axes[[2, 1, 0]] * lengths[:, None]).T, positions[places.argmin()]
    return affine


def _axes(frames: Sequence[Frame], where: str) -> np.ndarray:
    """The directions of a row, of a column, and of the normal (3, 3), which all slices share."""
    found = np.array([_known(frame.orientation, frame, "ImageOrientationPatient") for frame in frames])
    turned = np.abs(found - found[0]).max(axis=1)
    if turned.max() > MAX_TURN:
        other = frames[int(turned.argmax())]
        raise UserError(
            f"{where}: its slices have different orientations, as in {frames[0].instance.source.name} and "
            f"{other.instance.source.name}. {_apart('orientation', frames)}"
        )
    row, column = found[0].reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(row @ column) > 1e-2:
        raise frames[0].instance.wrong("ImageOrientationPatient", "\\".join(f"{value:g}" for value in found[0]))
    row = row / lengths[0]
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.array([row, column, np.cross(row, column)])


def _refuse_mixed(series: Series, frames: Sequence[Frame], where: str) -> None:
    """Raise `UserError` if the slices do not have one size, one spacing, one frame of reference and one value each."""
    first = series.instances[0]
    for one in series.instances:
        name = one.source.name
        if one.shape != first.shape:
            found = " and ".join(f"{columns}x{rows}" for rows, columns in (first.shape, one.shape))
            raise UserError(
                f"{where}: its slices have different sizes, {found} ({name}). Put those of each size into their own "
                "folder."
            )
        if one.text(FRAME_OF_REFERENCE) != first.text(FRAME_OF_REFERENCE):
            raise UserError(
                f"{where}: its slices have different frames of reference ({name}), so their places cannot be "
                "compared. Put those of each one into their own folder."
            )
        if one.text(PATIENT_ID) != first.text(PATIENT_ID):
            raise UserError(f"{where}: its slices belong to different patients ({name}). Put each into its own folder.")
        if one.is_colour:
            raise UserError(f"{where}: its slices are colour pictures ({name}). Give the slices of a scan.")
        if LOOKUP_TABLE in one.header.elements:
            raise UserError(
                f"{where}: a lookup table maps its values ({name}), which is not read. Export it with RescaleSlope "
                "and RescaleIntercept."
            )
    if (plain := [frame for frame in frames if not frame.is_scaled]) and len(plain) < len(frames):
        name = plain[0].instance.source.name
        raise UserError(
            f"{where}: {len(plain)} of its {len(frames)} slices have no RescaleIntercept ({name}), so their values "
            "are of another scale. Export the series again."
        )
    _refuse_several_images(frames, where)
    spacings = np.array([frame.spacing or (0.0, 0.0) for frame in frames])
    if np.abs(spacings - spacings[0]).max() > 1e-4 * spacings.max(initial=0):
        raise UserError(
            f"{where}: its slices have different pixel spacings. Put those of each spacing into their own folder."
        )


def _refuse_several_images(frames: Sequence[Frame], where: str) -> None:
    """Raise `UserError` if the slices belong to several images, such as two echoes. A missing value is a value."""
    for place, name in enumerate(KINDS.values()):
        first: dict[str, Frame] = {}  # of each value
        for frame in frames:
            first.setdefault(frame.kinds[place], frame)
        if len(first) == 1 or (name in _MEASURED and _are_rounded(first)):
            continue
        values = listed([value or "missing" for value in first], 5)
        one, other = _named(*list(first.values())[:2])
        raise UserError(
            f"{where}: its slices differ in {name} ({values}), as {one} and {other}, so they are several images. "
            f"{_apart(name, frames)}"
        )


def _are_rounded(values: Iterable[str]) -> bool:
    """Whether texts are numbers that differ by rounding only."""
    try:
        numbers = [real_number(value) for value in values]
    except ValueError:
        return False
    return max(numbers) - min(numbers) <= MAX_ROUNDING * max(map(abs, numbers))


def _refuse_uneven(frames: Sequence[Frame], places: np.ndarray, where: str) -> None:
    """Raise `UserError` if slices are missing or double. `places`: mm along the normal, ascending."""
    if len(frames) < 2:
        return
    steps = np.diff(places)
    usual = float(np.median(steps))
    if places[-1] - places[0] < 1e-3:
        raise UserError(
            f"{where}: its {len(frames)} slices are all at one position, so they are not a 3D image. Give a series "
            "whose slices lie beside each other."
        )
    double = np.flatnonzero(steps < MAX_UNEVENNESS * max(usual, float(steps.max()) * MAX_UNEVENNESS))
    if len(double):
        one, other = _named(*frames[double[0] : double[0] + 2])
        raise UserError(
            f"{where}: {len(double)} of its {len(frames)} slices have the position of another one, as {one} and "
            f"{other}. {_apart('phase or echo', frames)}"
        )
    if np.abs(steps - usual).max() <= MAX_UNEVENNESS * usual:
        return
    widest = int(steps.argmax())
    one, other = _named(*frames[widest : widest + 2])
    raise UserError(
        f"{where}: its slices are not evenly spaced: most are {usual:.4g} mm apart, but {one} and {other} are "
        f"{steps[widest]:.4g} mm apart. If slices are missing, add them. Else resample the scan to an even spacing."
    )


def _apart(what: str, frames: Sequence[Frame]) -> str:
    """The advice for a series that holds several scans."""
    first = frames[0].instance
    if first.count > 1 and all(frame.instance is first for frame in frames):
        return f"Split the file into one per {what}, for instance with dcm2niix."
    return f"Remove copies, and put the slices of each {what} into their own folder."


def _known(values: tuple[float, ...] | None, frame: Frame, field: str) -> tuple[float, ...]:
    if values is None:
        raise UserError(
            f"{frame.instance.source.name}: its {field} is missing, so its place in space is unknown. Export it as a "
            "volume of slices from CT, MR or PET."
        )
    return values


def _named(*frames: Frame) -> list[str]:
    """The names of the files of frames, with their folders if these differ."""
    parts = [frame.instance.source.name.split("/") for frame in frames]
    shown = 1 if len({tuple(words[:-1]) for words in parts}) == 1 else 2
    names = ["/".join(words[-shown:]) for words in parts]
    return [
        f"{name}, frame {frame.number + 1}" if frame.instance.count > 1 else name
        for name, frame in zip(names, frames, strict=True)
    ]
