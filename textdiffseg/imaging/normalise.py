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
from textdiffseg.imaging.boxes import Box

_MIN_STD = 1e-8  # nnU-Net's


def nonzero_mask(array: np.ndarray) -> np.ndarray:
    """The mask (D, H, W) of voxels that are nonzero in any channel of (C, D, H, W). Holes are filled."""
    return ndimage.binary_fill_holes((array != 0).any(axis=0))


def normalise(
    array: np.ndarray, channels: Sequence[ChannelPlan], mask: np.ndarray | None = None, inside: Box = ()
) -> np.ndarray:
    """The normalised image (C, D, H, W) float32.

    Args:
        array: (C, D, H, W).
        channels: one per channel.
        mask: (D, H, W) of the nonzero voxels, for channels with `foreground_only`.
        inside: the box whose voxels the statistics are taken from; (): all of them.
    """
    result = np.empty(array.shape, dtype=np.float32)
    for image, channel, out in zip(array, channels, result, strict=True):
        _normalise(image, channel, mask, inside, out)
    return result


def limits(channel: ChannelPlan) -> tuple[float, float] | None:
    """The range of a normalised CT channel, the same for every scan; None for the other schemes."""
    if channel.scheme != "ct":
        return None
    low, high = ((value - channel.mean) / max(channel.std, _MIN_STD) for value in (channel.low, channel.high))
    return low, high


def _normalise(image: np.ndarray, channel: ChannelPlan, mask: np.ndarray | None, inside: Box, out: np.ndarray) -> None:
    if channel.scheme == "ct":
        np.clip(image, channel.low, channel.high, out=out)
        out -= np.float32(channel.mean)
        out /= np.float32(max(channel.std, _MIN_STD))
    elif channel.scheme == "zscore" and channel.foreground_only:
        assert mask is not None, "expected the mask of the nonzero voxels"
        values = image[inside][mask[inside]].astype(np.float64)
        out[...] = 0
        if values.size:
            out[mask] = (image[mask].astype(np.float64) - values.mean()) / max(values.std(), _MIN_STD)
    elif channel.scheme == "zscore":
        mean, std = image[inside].mean(dtype=np.float64), image[inside].std(dtype=np.float64)
        np.subtract(image, np.float32(mean), out=out)
        out /= np.float32(max(std, _MIN_STD))
    elif channel.scheme == "rescale_to_0_1":
        low, high = float(image[inside].min()), float(image[inside].max())
        np.subtract(image, np.float32(low), out=out)
        out /= np.float32(max(high - low, _MIN_STD))
    else:
        out[...] = image
