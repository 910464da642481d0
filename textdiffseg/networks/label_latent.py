"""The label latent of preset `default`: masks painted with vectors of their words, on a coarser grid.

    z_0 = sum_q pool(y_q) c_q                                    of masks y_q, with one vector c_q for each label
    m   = sum_q pool(p_q) c_q                                    its mean, as it is linear in y
    s^2 = sum_q pool(sd_q)^2 c_q^2 + MIN_SCALE^2                 its variance, if labels are independent

pool is the mean over the voxels of a latent position, p_q the probability of label q, and sd_q^2 = p_q (1 - p_q). The
variance also assumes that all voxels of a position agree; it is only a scale. c_q is a fixed projection of the vector
that classifies label q (`TextClassifier.vectors`), scaled to the length sqrt(k). No weight is learned.

A latent z is decoded by Bayes' rule. With p(y | z) ~ p(y) N(z; c_y, I / PRECISION) at each voxel, and such that z = m
gives the mask:

    logits_q(z) = logits_q of the mask + PRECISION <z - m, c_q>,   for background c_0 = 0
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from textdiffseg.precision import float32_products

MIN_SCALE = 0.02  # of a latent whose values are about 1; smaller ones are rounding errors of a probability
PRECISION = 4.0  # true latents of the hippocampus: Dice .924 with 1, .951 with 2, .959 with 4 (docs/method.md)


@dataclass(frozen=True)
class LatentPosterior:
    """What the mask's probabilities say about z_0: the mean m and the scale s, each (B, k, d, h, w) float32."""

    mean: Tensor
    scale: Tensor

    def residual(self, z_0: Tensor) -> Tensor:
        """r_0 = (z_0 - m) / s."""
        return (z_0 - self.mean) / self.scale

    def latent(self, r: Tensor, spread: Tensor) -> Tensor:
        """z = m + spread s r."""
        return self.mean + spread * self.scale * r


class LabelLatent(nn.Module):
    """Encodes masks, and the probabilities of masks."""

    projection: Tensor  # (k, width), a buffer

    def __init__(self, stride: Triple, width: int, channels: int):
        """`stride`: voxels per latent position. `width`: of the classifying vectors."""
        super().__init__()
        self.stride = stride
        self.register_buffer("projection", nn.init.orthogonal_(torch.empty(channels, width)))

    def forward(self, masks: Tensor, vectors: Tensor) -> Tensor:
        """masks (B, Q, D, H, W) from 0 to 1, vectors (B, Q, width) -> z_0 (B, k, d, h, w) float32."""
        return _painted(F.avg_pool3d(masks.float(), self.stride), self.codes(vectors))

    def posterior(self, p: Tensor, vectors: Tensor) -> LatentPosterior:
        """p (B, Q, D, H, W): the probabilities of the masks."""
        p, codes = p.float(), self.codes(vectors)
        sd = F.avg_pool3d((p * (1 - p)).clamp(min=0).sqrt(), self.stride)
        variance = _painted(sd.square(), codes.square())
        return LatentPosterior(_painted(F.avg_pool3d(p, self.stride), codes), (variance + MIN_SCALE**2).sqrt())

    def weigh(self, logits: Tensor, difference: Tensor, vectors: Tensor) -> Tensor:
        """The mask's logits (B, 1 + Q, D, H, W) float32, weighed with a latent by Bayes' rule; of the same shape.

        `difference`: z - m (B, k, d, h, w), interpolated linearly between latent positions.
        """
        fine = F.interpolate(difference.float(), size=logits.shape[2:], mode="trilinear", align_corners=False)
        weighed = logits.clone(memory_format=torch.contiguous_format)
        labels = weighed[:, 1:].flatten(2)  # a view; a sum of whole tensors would take more memory with many labels
        with float32_products(fine.device):
            labels.baddbmm_(self.codes(vectors), fine.flatten(2), alpha=PRECISION)
        return weighed

    def codes(self, vectors: Tensor) -> Tensor:
        """c_q (B, Q, k) float32; 0 for padded slots, whose vectors are 0."""
        with float32_products(vectors.device):
            codes = F.normalize(vectors.float() @ self.projection.float().T, dim=-1)
        return codes * len(self.projection) ** 0.5


def _painted(shares: Tensor, codes: Tensor) -> Tensor:
    """shares (B, Q, d, h, w), codes (B, Q, k) -> the sum of the codes by share (B, k, d, h, w)."""
    with float32_products(shares.device):
        return torch.bmm(codes.transpose(1, 2), shares.flatten(2)).unflatten(2, shares.shape[2:])
