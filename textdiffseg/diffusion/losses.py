"""The loss of a latent: the squared error where the labels are known."""

import torch.nn.functional as F
from torch import Tensor

from plans.geometry import Triple, triple


def latent_loss(z_0_hat: Tensor, z_0: Tensor, slots: Tensor) -> Tensor:
    """Mean squared error of z_0_hat against z_0, or of eps_hat against eps. No gradient flows into z_0.

    Each latent position is weighted by the share of its voxels that are not ignored, as z_0 is only known there.

    Args:
        z_0_hat: the estimate (B, k, d, h, w).
        z_0: the target (B, k, d, h, w).
        slots: (B, D, H, W), -1 ignored.
    """
    weight = known_share(slots, triple(z_0.shape[2:]))
    error = (z_0_hat.float() - z_0.detach().float()).square().mean(dim=1, keepdim=True)
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)


def known_share(slots: Tensor, latent: Triple) -> Tensor:
    """The share of each latent position's voxels that are not ignored: slots (B, D, H, W) -> (B, 1, d, h, w)."""
    return F.adaptive_avg_pool3d((slots >= 0).float().unsqueeze(1), latent)
