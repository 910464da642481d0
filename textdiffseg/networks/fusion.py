"""Cross-modal fusion of image and text (eq. 2): z_it = z_i + softmax(Q K^T / sqrt(d)) V.

Q is projected from the image's latent z_i, K and V from the text tokens.
"""

import torch
from torch import Tensor, nn

from textdiffseg.networks.blocks import Attention, TextProjection, convolution
from textdiffseg.queries import Queries


class Fusion(nn.Module):
    """Cross-attention from every position of z_i to the tokens of all queried labels."""

    def __init__(self, width: int, text_width: int, head_width: int):
        super().__init__()
        self.attention = Attention(width, head_width, text_width)

    def forward(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) -> z_it (B, c, d, h, w)."""
        return self.attention(z_i, queries.tokens.to(z_i.dtype), queries.token_mask)


class ProjectedFusion(nn.Module):
    """The publication's fusion: eq. 2, then a projection to the k channels of the label latent."""

    def __init__(self, width: int, text_width: int, channels: int, head_width: int):
        super().__init__()
        self.fusion = Fusion(width, text_width, head_width)
        self.project = convolution(width, channels, (1, 1, 1))

    def forward(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) -> z_it (B, k, d, h, w)."""
        return self.project(self.fusion(z_i, queries))


class ConcatenatedFusion(nn.Module):
    """The publication's ablation zeta 1, first form: the mean text token is concatenated to z_i at every position."""

    def __init__(self, width: int, text_width: int, channels: int):
        super().__init__()
        self.words = TextProjection(text_width, width)  # checkpoints name it so
        self.project = convolution(2 * width, channels, (1, 1, 1))

    def forward(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) -> z_it (B, k, d, h, w)."""
        mask = queries.token_mask.unsqueeze(2)
        mean_token = (queries.tokens * mask).sum(1) / mask.sum(1)
        text = self.words(mean_token).to(z_i.dtype)[..., None, None, None].expand_as(z_i)
        return self.project(torch.cat((z_i, text), dim=1))


class NoFusion(nn.Module):
    """The publication's ablation zeta 1, second form: the text is not used."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.project = convolution(width, channels, (1, 1, 1))

    def forward(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) -> z_it (B, k, d, h, w)."""
        return self.project(z_i)
