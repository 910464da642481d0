"""The image encoder f_img: the image's latent z_i, and its finer features as skips for the label decoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.network_plan import Stage
from textdiffseg.networks.blocks import Attention, ConvBlock, ResidualBlock, convolution


class ImageEncoder(nn.Module):
    """Each stage has one strided block and some residual blocks. The last stage is the grid of z_i.

    With `head_width`, self-attention follows in the stages that the plan marks (in the publication the last two).
    """

    def __init__(self, channels: int, stages: tuple[Stage, ...], head_width: int | None = None):
        super().__init__()
        widths = (channels, *(stage.width for stage in stages))
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(width_in, stage.width, stage.kernel, stage.stride),
                *(ResidualBlock(stage.width, stage.kernel) for _ in range(stage.blocks)),
                *([Attention(stage.width, head_width)] if head_width and stage.attention else []),
            )
            for width_in, stage in zip(widths, stages, strict=False)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips: features of the finer stages, finest first."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features[-1], tuple(features[:-1])


class DownSampledImage(nn.Module):
    """The publication's ablation zeta 2: the image is averaged over each latent position.

    One learned 1 x 1 x 1 convolution gives it the width that the fusion expects.
    """

    def __init__(self, channels: int, width: int, stride: Triple):
        super().__init__()
        self.stride = stride
        self.widen = convolution(channels, width, (1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w), and no skips."""
        return self.widen(F.avg_pool3d(image, self.stride)), ()
