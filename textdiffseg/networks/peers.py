"""MONAI's networks for comparison. They use the same training loop and the same windows."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from plans.plan import Plan
from textdiffseg.networks.label_autoencoder import queried_channels
from textdiffseg.queries import Queries


class Peer(nn.Module):
    """One of MONAI's networks with one output channel per label. The queries only select channels."""

    def __init__(self, plan: Plan, kind: Literal["unet", "swinunetr"]):
        super().__init__()
        self.plan = plan
        self.pads = kind == "swinunetr"
        self.network = _unet(plan) if kind == "unet" else _swin(plan)

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling (as in `TextDiffSeg`)."""
        return (self.network,)

    def segment(self, image: Tensor, queries: Queries) -> Tensor:
        """image (B, C, D, H, W) -> logits (B, 1 + Q, D, H, W) float32."""
        logits = self._logits_of_padded(image) if self.pads else self.network(image)
        return queried_channels(logits, queries)

    def _logits_of_padded(self, image: Tensor) -> Tensor:
        """The network's logits (B, 1 + N, D, H, W). The image is padded at its ends to sizes that SwinUNETR accepts."""
        sizes = image.shape[2:]
        stride, edge = self.plan.network.swin_stride, self.plan.network.swin_edge
        padded = [max(edge, -(-size // stride) * stride) for size in sizes]
        extra = [n for size, full in zip(reversed(sizes), reversed(padded), strict=True) for n in (0, full - size)]
        depth, height, width = sizes
        return self.network(F.pad(image, extra))[:, :, :depth, :height, :width]


def _unet(plan: Plan) -> nn.Module:
    """A residual U-Net with the stages of the plan."""
    from monai.networks.nets.unet import UNet  # the import takes seconds

    return UNet(
        spatial_dims=3,
        in_channels=len(plan.channels),
        out_channels=1 + len(plan.labels),
        channels=[stage.width for stage in plan.stages],
        strides=[stage.stride for stage in plan.stages[1:]],  # type: ignore[misc]  # MONAI also takes one for each axis
        num_res_units=2,
    )


def _swin(plan: Plan) -> nn.Module:
    """SwinUNETR. Its width is the published 48 where the plan's first stage is 32 wide, else narrower in proportion."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(
        in_channels=len(plan.channels),
        out_channels=1 + len(plan.labels),
        feature_size=plan.network.swin_features * max(1, plan.stages[0].width // 8),
        spatial_dims=3,
    )
