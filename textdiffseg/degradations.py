"""Degradations of images, to measure how a trained model bears them and to fit its expected Dice.

Each function takes a normalised image (C, D, H, W) on the plan's grid and returns a new one, float32. D is the slice
axis, H has the rows. Intensities are in standard deviations of the normalised image. Training adds milder noise, local
brightness and low resolution (`data/intensity.py`).

Random numbers come from the generator that is passed, so a degraded image is a function of its seed (`degrade`).
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from plans.geometry import triple
from textdiffseg.imaging.resample import resample

BLUR_VOXELS = 1.5  # standard deviation of the Gaussian
SLICES_JOINED = 4  # into one thick slice
MAX_BIAS = 2.0  # factor of intensities where the field is strongest; 1 / MAX_BIAS where it is weakest
GAMMA = 2.0  # exponent, or 1 / GAMMA
LOST_ROWS = 0.25  # share of all rows

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def noise(image: np.ndarray, rng: np.random.Generator, sd: float) -> np.ndarray:
    """The image with Gaussian noise of standard deviation `sd`."""
    return image + sd * rng.standard_normal(image.shape, dtype=np.float32)


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image, blurred by a Gaussian of `BLUR_VOXELS` along each axis."""
    return gaussian_filter(image, (0, *3 * [BLUR_VOXELS]))


def thick_slices(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image from slices that are `SLICES_JOINED` times as thick, resampled to its own grid as scans are."""
    slices = image.shape[1]
    padded = np.pad(image, ((0, 0), (0, -slices % SLICES_JOINED), (0, 0), (0, 0)), mode="edge")
    joined = padded.reshape(len(image), -1, SLICES_JOINED, *image.shape[2:]).mean(2)
    return np.ascontiguousarray(resample(joined, triple(padded.shape[1:]))[:, :slices])


def bias_field(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image under a smooth field of factors from 1 / `MAX_BIAS` to `MAX_BIAS`. Mean and deviation are kept."""
    field = resample(rng.uniform(-1, 1, (1, 3, 3, 3)), triple(image.shape[1:]))[0]
    field /= max(1e-6, float(np.abs(field).max()))
    lowest = _lowest(image)
    return _standardised_as(image, lowest + (image - lowest) * np.float32(MAX_BIAS) ** field)


def gamma(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with its range raised to the power `GAMMA` or 1 / `GAMMA`. Mean and deviation are kept."""
    exponent = GAMMA if rng.random() < 0.5 else 1 / GAMMA
    lowest = _lowest(image)
    width = np.maximum(image.max((1, 2, 3), keepdims=True) - lowest, np.float32(1e-6))
    return _standardised_as(image, lowest + width * ((image - lowest) / width) ** np.float32(exponent))


def lost_rows(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image without `LOST_ROWS` of its rows. They hold the lowest intensity of their channel."""
    lost = rng.random(image.shape[1:3]) < LOST_ROWS
    return np.where(lost[None, ..., None], _lowest(image), image)


DEGRADATIONS: Mapping[str, Degradation] = {
    "noise 0.5": partial(noise, sd=0.5),
    "noise 1": partial(noise, sd=1.0),
    "noise 2": partial(noise, sd=2.0),
    "blur": blur,
    "thick slices": thick_slices,
    "bias field": bias_field,
    "gamma": gamma,
    "lost rows": lost_rows,
}


def degrade(name: str, image: np.ndarray, *seed: int) -> np.ndarray:
    """The image (C, D, H, W) with one of `DEGRADATIONS`, float32. `seed`: integers of at least 0."""
    return DEGRADATIONS[name](np.asarray(image, dtype=np.float32), np.random.default_rng(seed))


def _lowest(image: np.ndarray) -> np.ndarray:
    """The lowest intensity of each channel (C, 1, 1, 1)."""
    return image.min((1, 2, 3), keepdims=True)


def _standardised_as(image: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """`changed` with the mean and the standard deviation of `image` in each channel, as normalisation gives them."""
    axes = (1, 2, 3)
    mean, sd = (f(changed, axes, keepdims=True, dtype=np.float64) for f in (np.mean, np.std))
    aim, spread = (f(image, axes, keepdims=True, dtype=np.float64) for f in (np.mean, np.std))
    return ((changed - mean) * (spread / np.maximum(sd, 1e-6)) + aim).astype(np.float32)
