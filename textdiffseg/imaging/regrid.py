"""Resampling of an image to the grid of another one, anywhere in space."""

import numpy as np
from scipy import ndimage

from textdiffseg.imaging.volume import Geometry

MIN_OVERLAP = 0.9  # share of the target grid that the image must cover; less suggests two different scans
RESAMPLED = "Channel {number} was resampled to the grid of channel {first}, as its own grid differs."
_POINTS = 16  # along each axis, at which the overlap is measured


def overlap(source: Geometry, target: Geometry) -> float:
    """The share of the voxels of `target` that lie in a voxel of `source`, measured at evenly spread points."""
    lines = [np.linspace(0, size - 1, _POINTS) for size in target.shape]
    points = np.stack([*np.meshgrid(*lines, indexing="ij"), np.ones((_POINTS,) * 3)]).reshape(4, -1)
    index = (np.linalg.solve(source.affine, target.affine) @ points)[:3]
    inside = (index >= -0.5) & (index <= np.array(source.shape)[:, None] - 0.5)
    return float(inside.all(axis=0).mean())


def regrid(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """The image (C, *target.shape) float32, interpolated linearly from (C, D, H, W) on `source`.

    Outside `source` each channel has its lowest value.
    """
    index = np.linalg.solve(source.affine, target.affine)
    result = np.empty((len(array), *target.shape), dtype=np.float32)
    for channel, out in zip(array, result, strict=True):
        # One more voxel on each side: points in the outer half of a border voxel take its value.
        padded = np.pad(channel.astype(np.float32, copy=False), 1, mode="edge")
        lowest, matrix, offset = float(padded.min()), index[:3, :3], index[:3, 3] + 1
        ndimage.affine_transform(padded, matrix, offset, target.shape, out, order=1, mode="constant", cval=lowest)
    return result
