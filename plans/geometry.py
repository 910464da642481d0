"""Sizes and lengths along the three axes of a scan, in the order (D, H, W) = (z, y, x)."""

from collections.abc import Iterable
from math import prod
from typing import Annotated

from pydantic import Field

MAX_EDGE = 1 << 20  # voxels along an axis, far beyond any scan; a record with more is damaged
MAX_STEP_MM = 1e6
AXIS_NAMES = "DHW"
_NOISE = 1e-5  # relative error of a size: files keep spacings in single precision, or with six digits
Triple = tuple[int, int, int]
"""Three integers in the axis order (D, H, W) = (z, y, x), e.g. a shape in voxels."""
Millimetres = tuple[float, float, float]
"""Three lengths in mm in the axis order (D, H, W) = (z, y, x)."""
_Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]
_Step = Annotated[float, Field(gt=0, le=MAX_STEP_MM)]
Shape = tuple[_Edge, _Edge, _Edge]
"""A `Triple` of a record: a shape in voxels."""
Spacing = tuple[_Step, _Step, _Step]
"""`Millimetres` of a record: the distances between voxels."""


def triple(values: Iterable[int]) -> Triple:
    """The values (D, H, W) as a `Triple`. Raises `ValueError` unless there are three."""
    three = tuple(values)
    if len(three) != 3:
        raise ValueError(f"expected three whole numbers (D, H, W), found {three}")
    return three


def millimetres(values: Iterable[float]) -> Millimetres:
    """The lengths (D, H, W) as `Millimetres`. Raises `ValueError` unless there are three."""
    three = tuple(values)
    if len(three) != 3:
        raise ValueError(f"expected three lengths in mm (D, H, W), found {three}")
    return three


def cumulative(strides: Iterable[Triple]) -> Triple:
    """The product of the strides (D, H, W) of successive stages along each axis; (1, 1, 1) without stages."""
    stages = tuple(strides)
    return triple(prod(stride[axis] for stride in stages) for axis in range(3))


def lengthened(size: Triple, axis: int, voxels: int) -> Triple:
    """The size (D, H, W), longer by `voxels` along one axis; shorter if `voxels` is negative."""
    return triple(edge + voxels if index == axis else edge for index, edge in enumerate(size))


def resampled_shape(shape: Triple, spacing_from: Millimetres, spacing_to: Millimetres) -> Triple:
    """The shape (D, H, W) with the same extent at another spacing, at least one voxel (nnU-Net's rounding).

    Halves are rounded as if the spacings were exact. A format with less precision then gives the same shape.
    """
    axes = zip(shape, spacing_from, spacing_to, strict=True)
    return triple(max(1, _rounded(size * old / new)) for size, old, new in axes)


def _rounded(size: float) -> int:
    half = round(2 * size) / 2
    return round(half if abs(size - half) <= _NOISE * size else size)
