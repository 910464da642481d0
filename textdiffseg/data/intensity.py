"""Intensity transforms of training patches, from batchgeneratorsv2: nnU-Net's, stronger ones, and the publication's.

They draw from the global generators of torch and numpy. `augment.seeded` seeds these for each sample.
"""

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from batchgeneratorsv2.transforms.local.local_gamma import LocalGammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

P_NOISE, MAX_NOISE = 0.1, 0.1  # nnU-Net's; the standard deviation in those of the normalised image
P_STRONG_NOISE, MAX_STRONG_NOISE = 0.2, 1.0
P_STRONG = 0.15  # of each transform that `strong` adds
LOCAL_PLACE = (-0.5, 1.5)  # centre of a local change, in edges of the patch
LOCAL_BRIGHTNESS = (0.5, 2.0)  # at the centre, added or subtracted
LOCAL_GAMMA = ((0.4, 0.8), (1.2, 2.5))  # one of the two ranges
MIN_AXIS_SCALE = 0.25  # slices of up to four times the thickness


def intensity_transforms(coarse_axis: int | None = None, strong: bool = False) -> BasicTransform:
    """nnU-Net's intensity transforms in their order. Low resolution is not simulated along `coarse_axis`.

    With `strong`, noise is stronger, and three transforms are added for scans of other scanners: local brightness and
    gamma (those of nnU-Net's trainer "DA5", with half of its probability and smaller changes), and low resolution
    along single axes, as of thick slices. docs/method.md has what this gains and costs.
    """
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=None if coarse_axis is None else (coarse_axis,),
        p_per_channel=0.5,
    )
    p_noise, max_noise = (P_STRONG_NOISE, MAX_STRONG_NOISE) if strong else (P_NOISE, MAX_NOISE)
    noise = GaussianNoiseTransform(noise_variance=(0, max_noise), p_per_channel=1, synchronize_channels=True)
    chain: list[tuple[float, BasicTransform]] = [
        (p_noise, noise),  # its `noise_variance` is used as a standard deviation
        (0.2, GaussianBlurTransform(blur_sigma=_blur_sigma, p_per_channel=0.5)),
        (0.15, MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=False)),
        (0.15, ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False)),
        (0.25, low_resolution),
        (0.1, _gamma(inverted=True)),
        (0.3, _gamma(inverted=False)),
    ]
    if strong:
        brightness = BrightnessGradientAdditiveTransform(
            _local_width, LOCAL_PLACE, _local_brightness, same_for_all_channels=False
        )
        gamma = LocalGammaTransform(_local_width, LOCAL_PLACE, _local_gamma, same_for_all_channels=False)
        coarse = SimulateLowResolutionTransform(
            _axis_scale, synchronize_channels=False, synchronize_axes=False, ignore_axes=None
        )
        chain = [(P_STRONG, brightness), (P_STRONG, gamma), *chain, (P_STRONG, coarse)]
    return _in_turn(*chain)


def _in_turn(*chain: tuple[float, BasicTransform]) -> BasicTransform:
    """The transforms one after the other, each with its probability."""
    return ComposeTransforms([RandomTransform(transform, probability) for probability, transform in chain])


def _blur_sigma(shape: tuple[int, ...], dim: int) -> float:
    """The sigma of the blur in voxels: nnU-Net's 0.5 to 1, less along an axis of two or three voxels.

    The kernel has the odd number of voxels nearest to 6 sigma + 0.5. A short axis cannot be padded by reflection for
    a wider kernel.
    """
    return np.random.uniform(0.5, min(1.0, (2 * shape[dim] - 0.51) / 6))  # noqa: NPY002 (seeded, as the transforms)


def paper_intensity_transforms() -> BasicTransform:
    """The publication's intensity scaling and shift. It does not give their sizes: here 0.1, with probability 0.5."""
    scaling = MultiplicativeBrightnessTransform((0.9, 1.1), synchronize_channels=False)
    shift = BrightnessAdditiveTransform(0.0, 0.1, synchronize_channels=False)
    return _in_turn((0.5, scaling), (0.5, shift))


def _local_width(shape: tuple[int, ...], dim: int) -> float:
    """The standard deviation of a local change in voxels: a sixth of the edge to the whole edge, even in its log."""
    return np.exp(np.random.uniform(*np.log((max(1, shape[dim] // 6), shape[dim]))))  # noqa: NPY002


def _local_brightness(image: np.ndarray, kernel: np.ndarray) -> float:
    return np.random.choice((-1, 1)) * np.random.uniform(*LOCAL_BRIGHTNESS)  # noqa: NPY002


def _local_gamma() -> float:
    return np.random.uniform(*LOCAL_GAMMA[np.random.randint(2)])  # noqa: NPY002


def _axis_scale(image: np.ndarray, channel: int, dim: int) -> float:
    """The scale of one axis. Half of the axes keep theirs."""
    return 1.0 if np.random.rand() < 0.5 else np.random.uniform(MIN_AXIS_SCALE, 1)  # noqa: NPY002


def _gamma(inverted: bool) -> GammaTransform:
    return GammaTransform(
        BGContrast((0.7, 1.5)),
        p_invert_image=float(inverted),
        synchronize_channels=False,
        p_per_channel=1,
        p_retain_stats=1,
    )
