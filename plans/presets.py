"""The presets: which model a plan is for. Nothing heavy is imported here, so that command lines can list them."""

from typing import Literal, get_args

Preset = Literal[
    "default",  # what measures best
    "unet",  # the same blocks without diffusion
    "paper",  # the publication (docs/paper.md)
    "paper-concatenation",  # its zeta 1, first form: words concatenated to the image's latent instead of attended to
    "paper-no-text",  # its zeta 1, second form
    "paper-no-image-encoder",  # its zeta 2: the image down-sampled to the latent grid
    "paper-no-label-encoder",  # its zeta 3: a fixed reduction of the label map
    "peer-unet",  # MONAI's UNet
    "peer-swinunetr",  # MONAI's SwinUNETR
]
PRESETS: tuple[Preset, ...] = get_args(Preset)
