"""The common factors of a sample of preset `default`: a few random numbers for a whole scan.

Borders that one habit decides move together, and two readings of a scan may exclude each other. A factor analysis of
the label latent has such dependences (Monteiro et al. 2020 have them in the logits of a segmentation):

    Lambda = s U([m, s, place, g_1])     the loadings, R fields on the latent grid
    w ~ N(0, I)                          the factors, R numbers
    z = m + sum_i w_i Lambda_i           the latent that they choose

U is a U-Net. `place` is the position in the patch, from -1 to 1 along each axis. Without it, U would treat two
structures that look the same alike.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plans.network_plan import NetworkPlan, Stage
from plans.planning.layers import PLACE_CHANNELS
from textdiffseg.networks.label_latent import LatentPosterior
from textdiffseg.networks.latent_unet import LatentUNet

FIRST_SCALE = 0.1  # of the first weights of the last projection: the first draws are near the mask


class CommonFactors(nn.Module):
    """The loadings of R factors."""

    def __init__(self, stages: Sequence[Stage], width: int, channels: int, n_factors: int, network: NetworkPlan):
        """
        Args:
            stages: of the U-Net, from the latent grid down.
            width: of the features g_1.
            channels: k, of the latent.
            n_factors: R.
            network: further settings of the U-Net.
        """
        super().__init__()
        self.shape = n_factors, channels
        width_in = 2 * channels + PLACE_CHANNELS + width
        self.unet = LatentUNet(stages, width_in, n_factors * channels, network, timed=False)
        assert self.unet.out is not None, "expected a last projection"
        with torch.no_grad():
            for parameter in self.unet.out.parameters():
                parameter.mul_(FIRST_SCALE)

    def forward(self, posterior: LatentPosterior, g_1: Tensor) -> Tensor:
        """g_1 (B, c, d, h, w): the mask's features on the latent grid -> Lambda (B, R, k, d, h, w) float32."""
        axes = [torch.linspace(-1, 1, size, device=g_1.device) for size in g_1.shape[2:]]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(g_1), -1, -1, -1, -1)
        loadings = self.unet([posterior.mean, posterior.scale, place, g_1])
        return loadings.unflatten(1, self.shape) * posterior.scale.unsqueeze(1)


def weighted(factors: Tensor, loadings: Tensor) -> Tensor:
    """sum_i w_i Lambda_i (B, k, d, h, w) of factors (B, R) and loadings (B, R, k, d, h, w)."""
    return (factors.view(*factors.shape, 1, 1, 1, 1) * loadings).sum(1)
