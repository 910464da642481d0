"""Preprocessing of one case to the plan's grid, and the inverse transform.

Forward (nnU-Net's order): canonical orientation, crop, normalise, resample. A margin around the crop is read, so that
the crop does not change the image inside it.

Inverse: resample slab by slab and class by class with a running argmax, undo the crop, undo the orientation.
`TransformRecord` holds the parameters of the inverse.
"""

from collections.abc import Callable, Mapping
from math import prod
from types import EllipsisType
from typing import Literal

import numpy as np
from pydantic import model_validator

from plans.errors import UserError
from plans.geometry import Millimetres, Shape, Triple, millimetres, resampled_shape, triple
from plans.plan import Plan
from plans.planning.rules import low_resolution_axis
from plans.records import Record
from textdiffseg.imaging.boxes import Box
from textdiffseg.imaging.classes import Choice, SlabClasses, most_probable
from textdiffseg.imaging.forms import NiftiForms
from textdiffseg.imaging.normalise import limits, nonzero_mask, normalise
from textdiffseg.imaging.resample import SPLINE_MARGIN, Products, apply_matrices, resample, resample_labels
from textdiffseg.imaging.volume import Geometry, Orientation, Volume, to_canonical
from textdiffseg.masks import with_values
from textdiffseg.preprocessing.crop import crop_box, with_margin

IGNORED = -1  # label number of ignored voxels; losses and scores leave them out
_UNKNOWN = -2  # used inside `number_labels` for values that are not labels
MAX_INTENSITY = float(np.finfo(np.float16).max)  # cases are stored as float16; raw intensities may be larger
MAX_VOXELS = 1 << 32  # on the plan's grid; more means that the spacing is wrong
MAX_FINER = 10  # times finer than the plan, along an axis on which one voxel is left; more is a wrong spacing
Axis = Literal[0, 1, 2]
Affine = tuple[tuple[float, float, float, float], ...]


class TransformRecord(Record):
    """The transform of a case to the plan's grid. All shapes but the first are in the canonical orientation."""

    original_shape: Shape  # (D, H, W) of the file
    affine: Affine  # of the file: index (d, h, w, 1) -> world LPS in mm
    forms: NiftiForms | None = None  # of a NIfTI file; masks are written with them
    permutation: tuple[Axis, Axis, Axis]
    flips: tuple[Axis, ...]
    canonical_shape: Shape
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start and end along each canonical axis
    shape: Shape  # on the plan's grid

    @model_validator(mode="after")
    def _consistent(self) -> "TransformRecord":
        turned = tuple(self.original_shape[axis] for axis in self.permutation)
        if turned != self.canonical_shape:
            raise ValueError(f"canonical_shape {self.canonical_shape} is not original_shape permuted, {turned}")
        for (start, end), size in zip(self.crop, self.canonical_shape, strict=True):
            if not 0 <= start < end <= size:
                raise ValueError(f"crop {self.crop} does not lie in canonical_shape {self.canonical_shape}")
        return self

    @property
    def geometry(self) -> Geometry:
        """The file's own grid."""
        return Geometry(self.original_shape, np.array(self.affine), self.forms)

    @property
    def orientation(self) -> Orientation:
        """The permutation and flips of the file's axes."""
        return Orientation(self.permutation, self.flips)

    @property
    def cropped_shape(self) -> Triple:
        """The size of the crop box, in voxels (D, H, W)."""
        return triple(end - start for start, end in self.crop)

    @property
    def box(self) -> tuple[EllipsisType | slice, ...]:
        """The crop box as slices of a canonical array (..., D, H, W)."""
        return (..., *(slice(start, end) for start, end in self.crop))


def preprocess_image(
    volume: Volume,
    plan: Plan,
    labels: np.ndarray | None = None,
    products: Products = apply_matrices,
    check: Callable[[Triple], None] | None = None,
) -> tuple[np.ndarray, TransformRecord]:
    """The image (C, D, H, W) float32 on the plan's grid, and the transform record.

    `labels` are the label numbers (D, H, W) of a training case, on the file's grid. The crop then keeps all of them.
    `products` applies the matrices of resampling, here or on a GPU. `check` is called with the shape on the plan's grid
    before the image is resampled. It may raise `UserError`.

    Missing channels are 0. Raises `UserError` if the channels are not those of the plan, or if the result would exceed
    `MAX_VOXELS`.
    """
    if len(volume.array) != len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise UserError(
            f"{len(volume.array)} channels, expected {len(plan.channels)}. Give one file per channel, in this order: "
            f"{names}."
        )
    _refuse_missing(volume.missing, plan)
    canonical, orientation = to_canonical(volume)
    spacing = canonical.geometry.spacing
    shown = canonical.array[canonical.first_channel :]  # missing channels are 0
    crop = crop_box(shown, spacing, plan.crop, None if labels is None else orientation.apply(labels))
    cropped = triple(end - start for start, end in crop)
    shape = resampled_shape(cropped, spacing, plan.spacing)
    _refuse_spacing(canonical.geometry, plan, shape)
    if check is not None:
        check(shape)
    transform = TransformRecord(
        original_shape=volume.geometry.shape,
        affine=tuple(tuple(float(value) for value in row) for row in volume.geometry.affine),
        forms=volume.geometry.forms,
        permutation=orientation.permutation,
        flips=orientation.flips,
        canonical_shape=canonical.geometry.shape,
        crop=crop,
        shape=shape,
    )
    read, inside = with_margin(crop, transform.canonical_shape, SPLINE_MARGIN)
    image = _to_plan_grid(
        canonical.array[(slice(None), *read)], inside, plan, transform.shape, spacing, volume.missing, products
    )
    return image, transform


def _refuse_missing(missing: tuple[int, ...], plan: Plan) -> None:
    """Raise `UserError` if a scan lacks a channel that is not optional."""
    lacking = [plan.channels[number].name for number in missing if not plan.channels[number].optional]
    if lacking:
        optional = ", ".join(plan.channels[number].name for number in plan.optional_channels) or "none"
        raise UserError(
            f"channel {', '.join(lacking)} is missing, which the model needs. Add its file. The model's optional "
            f"channels: {optional}."
        )


def _to_plan_grid(
    array: np.ndarray,
    inside: Box,
    plan: Plan,
    shape: Triple,
    spacing: Millimetres,
    missing: tuple[int, ...],
    products: Products,
) -> np.ndarray:
    """The image (C, *shape) of the box `inside` of (C, D, H, W). Its statistics are those of the box.

    The voxels around the box are only read by the spline. The result is that of the whole scan at the same places.
    """
    mask = nonzero_mask(array) if any(channel.foreground_only for channel in plan.channels) else None
    order_along = _order_along(spacing, plan)
    result = np.zeros((len(array), *shape), dtype=np.float32)
    for number, channel in enumerate(plan.channels):  # one after the other, to hold one channel in memory
        if number in missing:
            continue
        out = result[number : number + 1]
        image = normalise(array[number : number + 1], (channel,), mask, inside)
        resample(image, shape, 3, order_along, inside, limits(channel), out, products)
        del image  # before the next one is made
        np.clip(out, -MAX_INTENSITY, MAX_INTENSITY, out=out)
    return result


def _refuse_spacing(geometry: Geometry, plan: Plan, shape: Triple) -> None:
    """Raise `UserError` where a scan would become too large on the plan's grid, or would shrink to a plane."""
    spacing = geometry.spacing
    full_shape = resampled_shape(geometry.shape, spacing, plan.spacing)
    flat = any(
        size == 1 and old * MAX_FINER < new for size, old, new in zip(full_shape, spacing, plan.spacing, strict=True)
    )
    if flat or prod(shape) > MAX_VOXELS:
        size_text = "x".join(map(str, full_shape)) if flat else f"{prod(shape):.1e}"
        raise UserError(
            f"its spacing {'/'.join(f'{step:g}' for step in spacing)} mm (z/y/x) makes {size_text} voxels at the "
            f"plan's {'/'.join(f'{step:g}' for step in plan.spacing)} mm. Correct the spacing in its header."
        )


def preprocess_labels(labels: np.ndarray, transform: TransformRecord, plan: Plan) -> np.ndarray:
    """The label map on the plan's grid, from label numbers (D, H, W), -1 ignored, on the file's grid; same dtype."""
    cropped = transform.orientation.apply(labels)[transform.box]
    spacing = millimetres(transform.geometry.spacing[axis] for axis in transform.permutation)
    return resample_labels(cropped, transform.shape, order=1, order_along=_order_along(spacing, plan))


class Restoring:
    """The class of each voxel of the file's grid, from slabs of probabilities on the plan's grid."""

    def __init__(self, transform: TransformRecord, choose: Choice = most_probable):
        self.transform = transform
        self._inside = SlabClasses(transform.shape, transform.cropped_shape, choose)

    def add(self, probabilities: np.ndarray) -> None:
        """Add the next planes (K, D, H, W)."""
        self._inside.add(probabilities)

    def finish(self) -> np.ndarray:
        """The classes (D, H, W) int16 on the file's grid. Voxels outside the crop box are background."""
        return _uncrop(self._inside.classes, self.transform, 0)


def restore(probabilities: np.ndarray, transform: TransformRecord, choose: Choice = most_probable) -> np.ndarray:
    """The class (D, H, W) int16 of each voxel of the file's grid, from probabilities (K, D, H, W) of all planes."""
    restoring = Restoring(transform, choose)
    restoring.add(probabilities)
    return restoring.finish()


def restore_map(array: np.ndarray, transform: TransformRecord, outside: float = 0.0) -> np.ndarray:
    """A map (D, H, W) float32 on the file's grid, e.g. of uncertainty, from one on the plan's grid.

    Voxels outside the crop box get the value `outside`.
    """
    inside = resample(np.asarray(array, dtype=np.float32)[None], transform.cropped_shape, order=1)[0]
    return _uncrop(inside, transform, outside)


def number_labels(array: np.ndarray, numbers_of: Mapping[int, int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The label numbers (D, H, W) int16 of a label file's values (D, H, W), and the unknown values, sorted.

    numbers_of: value in the file -> label number 1..N, or `IGNORED`. The value 0 is background.
    """
    numbers = with_values(array, {0: 0} | dict(numbers_of), _UNKNOWN, np.int16)
    unknown = np.unique(array[numbers == _UNKNOWN])
    return numbers, tuple(int(value) for value in unknown)


def _order_along(spacing: Millimetres, plan: Plan) -> dict[int, int]:
    """The interpolation order of single axes. A much coarser axis gets nearest neighbour (nnU-Net's separate z)."""
    axis = low_resolution_axis(spacing, plan.spacing)
    return {} if axis is None else {axis: 0}


def _uncrop(array: np.ndarray, transform: TransformRecord, outside: float) -> np.ndarray:
    full = array
    if array.shape != transform.canonical_shape:
        full = np.full(transform.canonical_shape, outside, dtype=array.dtype)
        full[transform.box] = array
    return np.ascontiguousarray(transform.orientation.undo(full))
