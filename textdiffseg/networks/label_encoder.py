"""The publication's label encoders, from a label map to the label latent z_0."""

import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.network_plan import NetworkPlan, Stage
from textdiffseg.networks.blocks import ConvBlock, ResidualBlock
from textdiffseg.queries import Queries


class EncoderPath(nn.Sequential):
    """A label encoder's convolutions, from the image's grid (stages[0]) to the latent grid (stages[-1])."""

    def __init__(self, width_in: int, stages: tuple[Stage, ...], network: NetworkPlan):
        coarse = stages[1:]
        widths = (width_in, *(network.label_width(stage.width) for stage in coarse))
        super().__init__(
            *(
                nn.Sequential(ConvBlock(width_in, width, (3, 3, 3), stage.stride), ResidualBlock(width, stage.kernel))
                for width_in, width, stage in zip(widths, widths[1:], coarse, strict=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width_in, D, H, W) -> (B, c, d, h, w).

        The loop is written out because torch.compile does not compile `nn.Sequential.forward`.
        """
        for stage in self:
            x = stage(x)
        return x


def scaled_label_map(slots: Tensor, queries: Queries, labels: int) -> Tensor:
    """slots (B, D, H, W) -> the publication's label map without text: l / N (B, 1, D, H, W) for label number l."""
    number_of_slot = F.pad(queries.labels, (1, 0))
    label_map = number_of_slot.gather(1, slots.clamp(min=0).flatten(1)).view_as(slots)
    return label_map.unsqueeze(1).float() / labels


class LabelMapEncoder(nn.Module):
    """The publication's label encoder. It reads label numbers; z_0 has mean 0 and variance 1 over the patch."""

    def __init__(self, stages: tuple[Stage, ...], labels: int, network: NetworkPlan):
        super().__init__()
        self.labels = labels
        self.stages = EncoderPath(1, stages, network)
        width = network.label_width(stages[-1].width)
        self.out = nn.Conv3d(width, 1, 1, bias=False)  # standardising would remove a bias

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, 1, d, h, w) float32. Ignored voxels count as background."""
        z = self.out(self.stages(scaled_label_map(slots, queries, self.labels))).float()
        return F.layer_norm(z, z.shape[1:])


class LabelMapReduction(nn.Module):
    """The publication's ablation zeta 3: the mean label number over each latent position, standardised.

    It has no learned parameters.
    """

    def __init__(self, stride: Triple, labels: int):
        super().__init__()
        self.stride, self.labels = stride, labels

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, 1, d, h, w) float32."""
        z = F.avg_pool3d(scaled_label_map(slots, queries, self.labels), self.stride)
        return F.layer_norm(z, z.shape[1:])
