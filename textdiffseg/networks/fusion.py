"""Cross-modal fusion (eq. 2): z_it = z_i + softmax(Q K^T / sqrt(d)) V, queries from z_i, keys and values from words."""

from torch import Tensor, nn

from textdiffseg.networks.blocks import Attention
from textdiffseg.queries import Queries


class Fusion(nn.Module):
    """Every position of the latent grid reads the tokens of all labels asked for."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.attention = Attention(width, text_width=text_width)

    def forward(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) -> z_it of the same shape."""
        return self.attention(z_i, queries.tokens.to(z_i.dtype), queries.token_mask)
