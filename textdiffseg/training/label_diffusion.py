"""The loss of Diff-UNet, which estimates masks from noisy masks (`networks.peers.diffunet`).

    x_t  = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   x_0 = 2 m - 1 for the masks m
    loss = BCE(p, m) + 1 - Dice(p, m) + |p - m|^2,              p = sigmoid(denoiser(x_t, t, image))

Labels that are not queried are not known for the case. They do not count, and their x_0 is that of an absent label.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from textdiffseg.networks.peers import LabelDiffusion
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout


def label_diffusion_loss(
    network: LabelDiffusion,
    readout: Readout,
    image: Tensor,
    targets: Tensor,
    queries: Queries,
    t: Tensor,
    eps: Tensor,
) -> Tensor:
    """The loss, a scalar, of image (B, C, D, H, W) and targets (B, D, H, W) int64 (`Readout.targets`).

    Args:
        network: Diff-UNet.
        readout: of its labels.
        image: (B, C, D, H, W).
        targets: (B, D, H, W) int64, -1 ignored.
        queries: of the same batch.
        t: (B,) int64, the time steps.
        eps: (B, N, D, H, W), the noise.
    """
    true, known = _masks(readout, targets, queries)
    x_t = network.diffuse(2 * true - 1, eps, t)
    logits = network.estimate(x_t, t, image, network.encode(image))
    p = logits.sigmoid()
    voxels = known.sum().clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
    error = (p - true).square()
    return ((entropy + error) * known).sum() / voxels + 1 - _dice(p, true, known)


def _masks(readout: Readout, targets: Tensor, queries: Queries) -> tuple[Tensor, Tensor]:
    """The masks of all labels and whether a voxel is known, each (B, N, D, H, W), float32 of 0 and 1."""
    batch, *size = targets.shape
    true = readout.true_masks(targets, queries)
    known = (targets >= 0).unsqueeze(1) & queries.mask[..., None, None, None]
    channel = queries.labels[..., None, None, None].expand(true.shape)  # padded slots write channel 0
    empty = torch.zeros(batch, 1 + len(readout.plan.labels), *size, device=targets.device)
    masks, seen = (empty.scatter(1, channel, value.float())[:, 1:] for value in (true, known))
    return masks, seen


def _dice(p: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """Soft Dice of the batch, a mean over the labels with known voxels. All tensors are (B, N, D, H, W)."""
    axes = (0, 2, 3, 4)
    both, sums = (p * true * known).sum(axes), ((p + true) * known).sum(axes)
    counted = known.amax(axes)
    return ((2 * both + 1) / (sums + 1) * counted).sum() / counted.sum().clamp(min=1)
