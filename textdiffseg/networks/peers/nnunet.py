"""nnU-Net's networks for comparison, as nnU-Net 2.8.1 configures them for the plan's patch and spacing.

They differ from nnU-Net's in three points. They have no deep supervision. If the plan is narrower than nnU-Net's 32
channels, they are narrower in the same proportion. Instance normalisation is `blocks.InstanceNorm`, which computes the
same and is faster on a CPU.
"""

from typing import Any

from torch import nn

from plans.plan import Plan
from plans.planning.rules import ladder, least_size, pad_to
from textdiffseg.networks.blocks import InstanceNorm
from textdiffseg.networks.peers.peer import Peer

WIDEST = 10  # widest stage relative to the first: 320 for 32
CONVOLUTIONS = 2  # of each stage, in PlainConvUNet
ENCODER_BLOCKS = (1, 3, 4, 6)  # residual blocks of each stage; all further stages have 6
DECODER_CONVOLUTIONS = 1  # of each stage, in ResidualEncoderUNet


def plain(plan: Plan) -> Peer:
    """PlainConvUNet, nnU-Net's default."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network = PlainConvUNet(n_conv_per_stage=CONVOLUTIONS, n_conv_per_stage_decoder=CONVOLUTIONS, **_settings(plan))
    return _peer(plan, network)


def residual_encoder(plan: Plan) -> Peer:
    """ResidualEncoderUNet with the blocks of nnU-Net's ResEnc presets."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    settings = _settings(plan)
    blocks = [ENCODER_BLOCKS[min(stage, len(ENCODER_BLOCKS) - 1)] for stage in range(settings["n_stages"])]
    network = ResidualEncoderUNet(n_blocks_per_stage=blocks, n_conv_per_stage_decoder=DECODER_CONVOLUTIONS, **settings)
    return _peer(plan, network)


def _settings(plan: Plan) -> dict[str, Any]:
    """The settings that both networks share."""
    steps, width = ladder(plan.spacing, least_size(plan.spacing, plan.patch)), plan.stages[0].width
    stages = len(steps.strides)
    return {
        "input_channels": len(plan.channels),
        "num_classes": 1 + len(plan.labels),
        "n_stages": stages,
        "features_per_stage": [width * min(2**stage, WIDEST) for stage in range(stages)],
        "strides": steps.strides,
        "kernel_sizes": steps.kernels,
        "conv_op": nn.Conv3d,
        "conv_bias": True,
        "norm_op": InstanceNorm,
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }


def _peer(plan: Plan, network: nn.Module) -> Peer:
    """The network with nnU-Net's initial weights. Patches are padded to a multiple of the network's total stride."""
    network.apply(network.initialize)  # type: ignore[arg-type]
    _drop_unused(network)
    size = least_size(plan.spacing, plan.patch)
    return Peer(plan, network, pad_to(size, ladder(plan.spacing, size).total()))


def _drop_unused(network: nn.Module) -> None:
    """Remove the heads of deep supervision, and the second names of modules.

    No gradient reaches these heads. Safetensors does not write a weight under two names.
    """
    decoder: Any = network.decoder
    del decoder.encoder
    for stage in range(len(decoder.seg_layers) - 1):
        decoder.seg_layers[stage] = nn.Identity()
    for module in network.modules():
        if hasattr(module, "all_modules"):  # a convolution with its normalisation and activation
            for name in ("conv", "norm", "nonlin"):
                module._modules.pop(name, None)
