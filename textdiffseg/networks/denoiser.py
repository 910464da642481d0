"""The denoiser f, a U-Net on the latent grid: z_0_hat = f([z_t, z_it], t), or eps_hat where the plan predicts noise.

It has most of the model's depth. The image encoder runs once per window; only the denoiser runs once per DDIM step.
"""

import itertools

import torch
from torch import Tensor, nn

from plans.network_plan import NetworkPlan, Stage
from textdiffseg.networks.blocks import Attention, ConvBlock, ResidualBlock, TimeEmbedding, convolution


class TimedStage(nn.Module):
    """Residual blocks conditioned on t, then self-attention where the plan has it."""

    def __init__(self, stage: Stage, time_width: int, blocks: int, head_width: int):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(stage.width, stage.kernel, time_width) for _ in range(blocks))
        self.attention = Attention(stage.width, head_width) if stage.attention else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, C, d, h, w), time embedding (B, time_width) -> (B, C, d, h, w)."""
        for block in self.blocks:
            x = block(x, time)
        return x if self.attention is None else self.attention(x)


class Denoiser(nn.Module):
    """A U-Net over `stages`. stages[0] is the latent grid; the others are coarser."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        condition_width: int,
        latent_channels: int,
        timesteps: int,
        network: NetworkPlan,
    ):
        super().__init__()
        time_width, head_width = network.time_factor * stages[0].width, network.head_width
        self.time = TimeEmbedding(time_width, timesteps)
        self.enter = ConvBlock(latent_channels + condition_width, stages[0].width, stages[0].kernel)
        self.down = nn.ModuleList(TimedStage(stage, time_width, stage.blocks, head_width) for stage in stages)
        self.pool = nn.ModuleList(
            ConvBlock(fine.width, coarse.width, coarse.kernel, coarse.stride)
            for fine, coarse in itertools.pairwise(stages)
        )
        self.rise = nn.ModuleList(
            nn.ConvTranspose3d(coarse.width, fine.width, coarse.stride, coarse.stride)
            for fine, coarse in itertools.pairwise(stages)
        )
        self.up = nn.ModuleList(TimedStage(stage, time_width, 1, head_width) for stage in stages[:-1])
        self.out = convolution(stages[0].width, latent_channels, (1, 1, 1))

    def forward(self, z_t: Tensor, t: Tensor, z_it: Tensor) -> Tensor:
        """z_t (B, k, d, h, w), t (B,) int64, z_it (B, c, d, h, w) -> z_0_hat or eps_hat (B, k, d, h, w) float32."""
        time = self.time(t)
        x = self.enter(torch.cat((z_t.to(z_it.dtype), z_it), dim=1))
        features = []
        for level, stage in enumerate(self.down):
            x = stage(self.pool[level - 1](x) if level else x, time)
            features.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.rise[level](x) + features[level], time)
        return self.out(x).float()
