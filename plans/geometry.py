"""Sizes and lengths along the three axes of a scan, in the order (D, H, W) = (z, y, x), and the arithmetic of grids."""

Triple = tuple[int, int, int]
"""Three whole numbers in the axis order (D, H, W) = (z, y, x), e.g. a shape in voxels."""
Millimetres = tuple[float, float, float]
"""Three lengths in mm in the axis order (D, H, W) = (z, y, x)."""


def resampled_shape(shape: Triple, spacing_from: Millimetres, spacing_to: Millimetres) -> Triple:
    """The shape that covers the same extent at another spacing (nnU-Net rounds each axis, at least one voxel)."""
    d, h, w = (max(1, round(size * old / new)) for size, old, new in zip(shape, spacing_from, spacing_to, strict=True))
    return d, h, w
