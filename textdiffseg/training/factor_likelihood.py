"""The likelihood of true masks under several draws of a sample's common factors.

    log p(y | w) = sum over voxels of log p(y_v | w)

Only the voxels count in which the mask is least sure, as many as the latent has positions, but not more than memory
allows: factors hardly change others. So this takes a quarter of the time (48 x 48 x 40 voxels, ten draws).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plans.planning.memory import likelihood_voxels
from textdiffseg.networks.label_latent import PRECISION
from textdiffseg.precision import float32_products
from textdiffseg.readout import Readout
from textdiffseg.segmenter import MaskSampler


def log_likelihoods(sampler: MaskSampler, factors: Tensor, targets: Tensor, readout: Readout) -> Tensor:
    """log p(y | w) (M, B), in nats. Ignored voxels count 0.

    Args:
        sampler: around the masks of B patches.
        factors: w (M, B, R) of M draws.
        targets: (B, D, H, W) (`Readout.targets`), -1 ignored.
        readout: of the plan.
    """
    logits, loadings, queries = sampler.features.logits.detach(), sampler.loadings, sampler.queries
    shape = logits.shape[2:]
    unsure = readout.entropy(readout.probabilities(logits), 1) * (targets >= 0)
    voxels = unsure.flatten(1).topk(likelihood_voxels(math.prod(loadings.shape[3:]))).indices  # (B, N)
    with float32_products(logits.device):
        codes = sampler.network.label_codes(queries)  # (B, Q, k)
        there = _interpolated(loadings, voxels, shape)  # (B, R, k, N)
        of_labels = PRECISION * torch.einsum("bqk,brkn->brqn", codes, there)
        shifts = F.pad(torch.einsum("mbr,brqn->mbqn", factors, of_labels), (0, 0, 1, 0))  # 0 for background
    known = logits.flatten(2).gather(2, voxels.unsqueeze(1).expand(-1, logits.shape[1], -1))
    true = targets.flatten(1).gather(1, voxels)
    return torch.stack([readout.log_likelihood(known + shift, true, queries).sum(1) for shift in shifts])


def mean_likelihood_loss(log_p: Tensor) -> Tensor:
    """-log 1/M sum_m p(y | w_m), the mean over patches, from log p(y | w) (M, B)."""
    return (math.log(len(log_p)) - log_p.logsumexp(0)).mean()


@torch.no_grad()
def likeliest(sampler: MaskSampler, factors: Tensor, log_p: Tensor) -> MaskSampler:
    """The sampler given the likeliest of M draws of each patch, from factors (M, B, R) and log p(y | w) (M, B).

    The posterior of w is so narrow that the likeliest draw has nearly all of its weight.
    """
    rows = torch.arange(factors.shape[1], device=factors.device)
    return sampler.given(factors[log_p.argmax(0), rows])


def _interpolated(fields: Tensor, voxels: Tensor, shape: torch.Size) -> Tensor:
    """Fields (B, R, k, d, h, w), interpolated linearly at voxels (B, N) of a grid of this shape -> (B, R, k, N)."""
    _, height, width = shape
    x_y_z = voxels % width, voxels // width % height, voxels // (height * width)
    # From -1 to 1 between the grid's outer faces. Plain numbers, as a tensor of the edges would be waited for.
    points = torch.stack([(2 * i + 1) / edge - 1 for i, edge in zip(x_y_z, reversed(shape), strict=True)], dim=-1)
    found = F.grid_sample(
        fields.float().flatten(1, 2), points[:, :, None, None], padding_mode="border", align_corners=False
    )
    return found[..., 0, 0].unflatten(1, fields.shape[1:3])
