"""f_img: the image to the latent grid, keeping its finer features as skips for the label decoder."""

from torch import Tensor, nn

from plans.plan import Stage
from textdiffseg.networks.blocks import ConvBlock, ResidualBlock


class ImageEncoder(nn.Module):
    """One strided block and some residual blocks a stage; the last stage is the latent grid."""

    def __init__(self, channels: int, stages: tuple[Stage, ...]):
        super().__init__()
        widths = (channels, *(stage.width for stage in stages))
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(width_in, stage.width, stage.kernel, stage.stride),
                *(ResidualBlock(stage.width, stage.kernel) for _ in range(stage.blocks)),
            )
            for width_in, stage in zip(widths, stages, strict=False)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the features of the finer stages, finest first."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features[-1], tuple(features[:-1])
