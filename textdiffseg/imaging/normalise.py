"""Intensity normalisation by nnU-Net's schemes. Each channel has a `ChannelPlan`.

    ct              (clip(x, low, high) - mean) / std    in HU, statistics of the training cases' foreground
    zscore          (x - mean) / std                     statistics of the case
    rescale_to_0_1  (x - min) / (max - min)

With `foreground_only` the statistics of zscore are those of the nonzero voxels, and the other voxels become 0.
"""

import math
from collections.abc import Iterator, Sequence

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
        out[...] = 0
        if mask[inside].any():
            mean, std = _mean_and_std(image[inside], mask[inside])
            for plane, nonzero, target in zip(image, mask, out, strict=True):
                target[nonzero] = (plane[nonzero].astype(np.float64) - mean) / max(std, _MIN_STD)
    elif channel.scheme == "zscore":
        mean, std = _mean_and_std(image[inside])
        np.subtract(image, np.float32(mean), out=out)
        out /= np.float32(max(std, _MIN_STD))
    elif channel.scheme == "rescale_to_0_1":
        low, high = float(image[inside].min()), float(image[inside].max())
        np.subtract(image, np.float32(low), out=out)
        out /= np.float32(max(high - low, _MIN_STD))
    else:
        out[...] = image


def _mean_and_std(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """The mean and standard deviation of (D, H, W), of the voxels of the mask if there is one.

    Sums are float64, plane by plane: a float64 copy of a scan would take 8 bytes per voxel.
    """

    def planes() -> Iterator[np.ndarray]:
        for number, plane in enumerate(image):
            yield (plane if mask is None else plane[mask[number]]).astype(np.float64)

    count = image.size if mask is None else np.count_nonzero(mask)
    mean = sum(plane.sum() for plane in planes()) / count
    return mean, math.sqrt(sum(np.square(plane - mean).sum() for plane in planes()) / count)
