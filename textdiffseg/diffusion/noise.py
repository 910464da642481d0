"""The noise of preset `default`: a sum of smooth fields at several scales, with variance 1.

White noise has nearly no power at the scale of a border that is drawn differently. The denoiser would have to build it
up from little. With power at these scales samples are as smooth as true residuals (docs/method.md has the figures).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = 3  # fields besides white noise: their nodes are 2, 4 and 8 latent positions apart
GROWTH = 1.5  # the standard deviation of a field, relative to the next finer one


def smooth_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise (k, d, h, w), on the generator's device."""
    device = generator.device
    total, variance = torch.randn(shape, generator=generator, device=device), 1.0
    for scale in range(1, SCALES + 1):
        step, power = 2**scale, GROWTH ** (2 * scale)
        nodes = [-(-(edge - 1) // step) + 1 for edge in shape[1:]]
        field = torch.randn(1, shape[0], *nodes, generator=generator, device=device)
        size = [(count - 1) * step + 1 for count in nodes]
        field = F.interpolate(field, size=size, mode="trilinear", align_corners=True)[0]
        field = field[:, : shape[1], : shape[2], : shape[3]]
        d, h, w = (_interpolated_variance(edge, step, device) for edge in shape[1:])
        total += power**0.5 * field / (d[:, None, None] * h[:, None] * w).sqrt()
        variance += power
    return total / variance**0.5


def _interpolated_variance(size: int, step: int, device: torch.device) -> Tensor:
    """The variance (size,) of linear interpolation between nodes of variance 1 that are `step` positions apart."""
    between = torch.arange(size, device=device) % step / step
    return between**2 + (1 - between) ** 2


def white_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent normal noise (k, d, h, w), of the publication, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
