"""MONAI's networks for comparison: UNet and SwinUNETR."""

from torch import nn

from plans.geometry import triple
from plans.plan import Plan
from textdiffseg.networks.peers.peer import Peer


def unet(plan: Plan) -> Peer:
    """A residual U-Net with the stages of the plan."""
    from monai.networks.nets.unet import UNet  # the import takes seconds

    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=len(plan.channels),
        out_channels=1 + len(plan.labels),
        channels=[stage.width for stage in plan.stages],
        strides=[stage.stride for stage in plan.stages[1:]],  # type: ignore[misc]  # MONAI also takes one for each axis
        num_res_units=2,
    )
    return Peer(plan, network)


def swin_unetr(plan: Plan) -> Peer:
    """SwinUNETR. Its width is the published 48 where the plan's first stage is 32 wide, else narrower in proportion."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    network = SwinUNETR(
        in_channels=len(plan.channels),
        out_channels=1 + len(plan.labels),
        feature_size=plan.network.swin_features * max(1, plan.stages[0].width // 8),
        spatial_dims=3,
    )
    stride, edge = plan.network.swin_stride, plan.network.swin_edge
    return Peer(plan, network, triple(max(edge, -(-size // stride) * stride) for size in plan.patch))
