"""Intensity normalisation by nnU-Net's schemes. Each channel has a `ChannelPlan`.

    ct              (clip(x, low, high) - mean) / std    in HU, statistics of the training cases' foreground
    zscore          (x - mean) / std                     statistics of the case
    rescale_to_0_1  (x - min) / (max - min)

With `foreground_only` the statistics of zscore are those of the nonzero voxels, and the other voxels become 0.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from plans.plan import ChannelPlan

_MIN_STD = 1e-8  # nnU-Net's


def nonzero_mask(array: np.ndarray) -> np.ndarray:
    """The mask (D, H, W) of voxels that are nonzero in any channel of (C, D, H, W). Holes are filled."""
    return ndimage.binary_fill_holes((array != 0).any(axis=0))


def normalise(array: np.ndarray, channels: Sequence[ChannelPlan], mask: np.ndarray | None = None) -> np.ndarray:
    """The normalised image (C, D, H, W) float32.

    Args:
        array: (C, D, H, W).
        channels: one per channel.
        mask: (D, H, W) of the nonzero voxels, for channels with `foreground_only`.
    """
    result = np.empty(array.shape, dtype=np.float32)
    for image, channel, out in zip(array, channels, result, strict=True):
        _normalise(image, channel, mask, out)
    return result


def _normalise(image: np.ndarray, channel: ChannelPlan, mask: np.ndarray | None, out: np.ndarray) -> None:
    if channel.scheme == "ct":
        np.clip(image, channel.low, channel.high, out=out)
        out -= np.float32(channel.mean)
        out /= np.float32(max(channel.std, _MIN_STD))
    elif channel.scheme == "zscore" and channel.foreground_only:
        inside = image[mask].astype(np.float64)
        out[...] = 0
        if inside.size:
            out[mask] = (inside - inside.mean()) / max(inside.std(), _MIN_STD)
    elif channel.scheme == "zscore":
        mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        np.subtract(image, np.float32(mean), out=out)
        out /= np.float32(max(std, _MIN_STD))
    elif channel.scheme == "rescale_to_0_1":
        low, high = float(image.min()), float(image.max())
        np.subtract(image, np.float32(low), out=out)
        out /= np.float32(max(high - low, _MIN_STD))
    else:
        out[...] = image
