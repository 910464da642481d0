"""Building blocks of the networks. Feature maps have the axes (B, C, D, H, W)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple, triple


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation: each channel of each sample gets mean 0 and variance 1, then a learned scale and shift.

    It is a group normalisation with one channel per group, as torch's kernel for groups is faster on a CPU. Forward
    and backward over 2 x 16 x 40 x 56 x 40 values take 6 ms; `InstanceNorm3d` takes 11 to 39 ms (docs/history.md).

    The output has the input's data type. Statistics are computed in float32. Under CUDA's autocast torch would return
    float32, which takes twice the memory. CUDA's kernels need weights of the input's data type.
    """

    def __init__(self, width: int):
        super().__init__(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C, D, H, W)."""
        if not x.is_cuda:
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def convolution(width_in: int, width_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """A convolution with padding kernel // 2. The output grid is the input grid divided by `stride`."""
    return nn.Conv3d(width_in, width_out, kernel, stride, padding=triple(size // 2 for size in kernel))


class ConvBlock(nn.Sequential):
    """Convolution, instance normalisation, leaky ReLU."""

    def __init__(self, width_in: int, width_out: int, kernel: Triple, stride: Triple = (1, 1, 1)):
        super().__init__(
            convolution(width_in, width_out, kernel, stride),
            InstanceNorm(width_out),
            nn.LeakyReLU(0.01, inplace=True),
        )


class ResidualBlock(nn.Module):
    """y = act(x + norm(conv(act(norm(conv(x)))))).

    With `time_width`, a projection of the time embedding scales and shifts the second norm's output (FiLM). The
    projection starts at zero, so it changes nothing at first.
    """

    def __init__(self, width: int, kernel: Triple, time_width: int | None = None):
        super().__init__()
        self.first = ConvBlock(width, width, kernel)
        self.second = convolution(width, width, kernel)
        self.norm = InstanceNorm(width)
        self.film = None if time_width is None else nn.Linear(time_width, 2 * width)
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x (B, C, D, H, W), time embedding (B, time_width) -> (B, C, D, H, W)."""
        h = self.norm(self.second(self.first(x)))
        if self.film is not None:
            scale, shift = self.film(time)[..., None, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.leaky_relu(x + h, 0.01)


class TextProjection(nn.Linear):
    """A linear layer for standardised text vectors: W e / sqrt(d_t) + b. W starts with unit variance.

    Each of the d_t entries of e is about 1. In a plain linear layer one optimiser step could therefore change an
    output by d_t times the learning rate. The label vectors would change faster than the image features can follow.
    """

    def __init__(self, text_width: int, width: int):
        super().__init__(text_width, width)
        self.scale = text_width**-0.5
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors (..., d_t) -> (..., width)."""
        return super().forward(vectors * self.scale)


class Attention(nn.Module):
    """Multi-head attention with a residual connection. Every grid position is one attention query.

    With `text_width`, keys and values come from text tokens (cross-attention), else from the grid (self-attention).
    """

    def __init__(self, width: int, head_width: int, text_width: int | None = None):
        super().__init__()
        self.heads = max(1, width // head_width)
        self.norm = InstanceNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = TextProjection(text_width, 2 * width) if text_width else nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, C, d, h, w), tokens (B, S, text_width) -> (B, C, d, h, w). mask (B, S) is False for padded tokens."""
        grid = self.norm(x).flatten(2).transpose(1, 2)
        query = self._split(self.query(grid))
        keys_and_values = self.key_value(grid if tokens is None else tokens)
        key, value = (self._split(half) for half in keys_and_values.chunk(2, -1))
        attention_mask = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out = self.out(attended.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(x.shape)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, head width)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of t from 0 to 1, followed by a two-layer perceptron."""

    frequencies: Tensor  # (width // 2,), a buffer

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), width // 2)), persistent=False)
        self.perceptron = nn.Sequential(nn.Linear(width // 2 * 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) -> (B, width)."""
        angles = t.float()[:, None] * self.frequencies
        return self.perceptron(torch.cat((angles.sin(), angles.cos()), dim=1))
