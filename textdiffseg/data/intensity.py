"""Intensity transforms of training patches, from batchgeneratorsv2: nnU-Net's and the publication's.

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
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform


def intensity_transforms(coarse_axis: int | None = None) -> BasicTransform:
    """nnU-Net's intensity transforms in their order. Low resolution is not simulated along `coarse_axis`."""
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=None if coarse_axis is None else (coarse_axis,),
        p_per_channel=0.5,
    )
    chain = (
        (0.1, GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)),
        (0.2, GaussianBlurTransform(blur_sigma=_blur_sigma, p_per_channel=0.5)),
        (0.15, MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=False)),
        (0.15, ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False)),
        (0.25, low_resolution),
        (0.1, _gamma(inverted=True)),
        (0.3, _gamma(inverted=False)),
    )
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
    return ComposeTransforms([RandomTransform(scaling, 0.5), RandomTransform(shift, 0.5)])


def _gamma(inverted: bool) -> GammaTransform:
    return GammaTransform(
        BGContrast((0.7, 1.5)),
        p_invert_image=float(inverted),
        synchronize_channels=False,
        p_per_channel=1,
        p_retain_stats=1,
    )
