"""The U-Net on coarse grids. It has most of the model's depth and serves twice:

    h     = F(z_it)                 the estimator: the features of the mask, from the fusion's grid down
    v_hat = R([r_t, m, g_1], t)     the denoiser of the residual, once per DDIM step, from the latent grid down

The publication's denoiser is the second form: eps_hat = f([z_t, z_it], t).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plans.network_plan import NetworkPlan, Stage
from textdiffseg.networks.blocks import Attention, ConvBlock, ResidualBlock, TimeEmbedding, convolution


class LatentStage(nn.Module):
    """Residual blocks, then self-attention where the plan has it. With `time_width`, blocks are conditioned on t."""

    def __init__(self, stage: Stage, blocks: int, head_width: int, time_width: int | None):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(stage.width, stage.kernel, time_width) for _ in range(blocks))
        self.attention = Attention(stage.width, head_width) if stage.attention else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """x (B, C, d, h, w), time embedding (B, time_width) or None -> (B, C, d, h, w)."""
        for block in self.blocks:
            x = block(x, time)
        return x if self.attention is None else self.attention(x)


class LatentUNet(nn.Module):
    """A U-Net over `stages`. stages[0] is the grid of inputs and output; the others are coarser.

    Args:
        stages: strides, kernels, widths and blocks.
        width_in: channels of all inputs together.
        width_out: output channels; None: the features of stages[0], without a last projection.
        network: widths of attention heads and of the time embedding.
        timed: whether the blocks are conditioned on t.
    """

    def __init__(
        self, stages: Sequence[Stage], width_in: int, width_out: int | None, network: NetworkPlan, timed: bool
    ):
        super().__init__()
        first, head_width = stages[0], network.head_width
        time_width = network.time_factor * first.width if timed else None
        pairs = tuple(itertools.pairwise(stages))
        self.time = TimeEmbedding(time_width) if time_width else None
        self.enter = ConvBlock(width_in, first.width, first.kernel)
        self.down = nn.ModuleList(LatentStage(stage, stage.blocks, head_width, time_width) for stage in stages)
        self.pool = nn.ModuleList(
            ConvBlock(fine.width, coarse.width, coarse.kernel, coarse.stride) for fine, coarse in pairs
        )
        self.rise = nn.ModuleList(
            nn.ConvTranspose3d(coarse.width, fine.width, coarse.stride, coarse.stride) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(LatentStage(fine, 1, head_width, time_width) for fine, _ in pairs)
        self.out = None if width_out is None else convolution(first.width, width_out, (1, 1, 1))

    def start_at_zero(self) -> "LatentUNet":
        """Set the last projection to 0, so that training starts from the output 0. Returns itself."""
        for parameter in self.out.parameters() if self.out is not None else ():
            nn.init.zeros_(parameter)
        return self

    def forward(self, inputs: Sequence[Tensor], t: Tensor | None = None) -> Tensor:
        """Inputs (B, C, d, h, w) each, t (B,) from 0 to 1 or None -> (B, width_out, d, h, w).

        The output is float32 if the network has a last projection, else it has the data type of the features.
        """
        time = None if self.time is None or t is None else self.time(t)
        x = self.enter(torch.cat([part.to(inputs[-1].dtype) for part in inputs], dim=1))
        features = []
        for level, stage in enumerate(self.down):
            x = stage(self.pool[level - 1](x) if level else x, time)
            features.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.rise[level](x) + features[level], time)
        return x if self.out is None else self.out(x).float()
