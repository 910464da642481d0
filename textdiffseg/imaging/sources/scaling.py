"""The scale that a header gives for its stored values."""

import numpy as np
from nibabel.volumeutils import apply_read_scaling


def scaled(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """The values `slope * voxel + intercept` of an array (C, D, H, W), as float32.

    Each plane is computed in float64, to save memory. Values beyond float32 become infinite. They are refused later.
    """
    result = np.empty(voxels.shape, np.float32)
    for channel, own in zip(voxels, result, strict=True):
        for plane, target in zip(channel, own, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                target[...] = apply_read_scaling(plane, slope, intercept)
    return result
