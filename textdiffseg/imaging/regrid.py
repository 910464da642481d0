"""An image on the grid of another one: resampled, or placed voxel by voxel."""

import numpy as np
from scipy import ndimage

from textdiffseg.imaging.volume import Geometry

MIN_OVERLAP = 0.9  # share of the target grid that the image must cover; less suggests two different scans
RESAMPLED = "Channel {number} was resampled to the grid of channel {first}, as its own grid differs."
MAX_OFFSET_VOXELS = 0.1  # between the voxels of two grids that are the same ones
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


def placed(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray | None:
    """The label map (D, H, W) on `target`, voxel by voxel; None if the two grids do not have the same voxels.

    The map may be turned, or cover a part of `target`. Outside it is 0. Labelled voxels outside `target`: None.
    """
    index = np.linalg.solve(target.affine, source.affine)  # of a voxel of `source` in `target`
    turn, shift = np.rint(index[:3, :3]), np.rint(index[:3, 3])
    if not np.array_equal(np.abs(turn).sum(0), (1, 1, 1)) or not np.array_equal(np.abs(turn).sum(1), (1, 1, 1)):
        return None
    corners = np.stack(np.meshgrid(*((0, size - 1) for size in source.shape), indexing="ij")).reshape(3, -1)
    exact = index[:3, :3] @ corners + index[:3, 3:]
    if np.abs(exact - (turn @ corners + shift[:, None])).max() > MAX_OFFSET_VOXELS:
        return None
    labelled = np.nonzero(labels)
    indices = (turn @ np.stack(labelled) + shift[:, None]).astype(int)
    if ((indices < 0) | (indices >= np.array(target.shape)[:, None])).any():
        return None
    result = np.zeros(target.shape, labels.dtype)
    result[tuple(indices)] = labels[labelled]
    return result
