"""Names that command lines offer: presets, resolutions, meanings of a gap, trackers. Nothing slow is imported."""

from typing import Literal, get_args

Preset = Literal[
    "default",  # the model with the best measured scores
    "unet",  # the same blocks without diffusion
    "paper",  # the publication (docs/paper.md)
    "paper-concatenation",  # its zeta 1, first form: text concatenated to the image's latent instead of attention
    "paper-no-text",  # its zeta 1, second form
    "paper-no-image-encoder",  # its zeta 2: the image down-sampled to the latent grid
    "paper-no-label-encoder",  # its zeta 3: a fixed reduction of the label map
    "peer-unet",  # MONAI's UNet
    "peer-swinunetr",  # MONAI's SwinUNETR
    "peer-nnunet",  # nnU-Net's PlainConvUNet
    "peer-resenc",  # nnU-Net's ResidualEncoderUNet
    "peer-unetrpp",  # UNETR++
    "peer-diffunet",  # Diff-UNet
]
PeerNetwork = Literal["unet", "swinunetr", "nnunet", "resenc", "unetrpp", "diffunet"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Resolution = Literal["full", "low"]
RESOLUTIONS: tuple[Resolution, ...] = get_args(Resolution)
Missing = Literal["auto", "absent", "not-annotated"]  # what it means that a mask lacks a label (`plans.raw.gaps`)
MISSING: tuple[Missing, ...] = get_args(Missing)
Tracker = Literal["tensorboard"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
