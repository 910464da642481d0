"""The parts of a `Plan` that decide the network: stages, latent, diffusion, and the publication's switches."""

from typing import Annotated, Literal

from pydantic import Field

from plans.geometry import Triple
from plans.records import Record

MAX_CHANNELS = 1 << 16  # far beyond any network; a plan with more is damaged
MAX_BLOCKS = 1 << 10
MAX_TIMESTEPS = 1 << 20
Channels = Annotated[int, Field(gt=0, le=MAX_CHANNELS)]
Timesteps = Annotated[int, Field(gt=1, le=MAX_TIMESTEPS)]


class Stage(Record):
    """One resolution level of the network, from fine to coarse."""

    stride: Triple  # relative to the stage before; (1, 1, 1) for the first
    kernel: Triple  # 3 along an axis, or 1 while that axis is still much coarser than the others
    width: Channels  # feature channels
    blocks: int = Field(gt=0, le=MAX_BLOCKS)  # residual blocks
    attention: bool = False  # self-attention (denoiser stages; with `Plan.paper` those of the image encoder too)


class LatentPlan(Record):
    """The label latent lives on the grid of `Plan.stages[level]`."""

    level: int = Field(ge=1, le=MAX_BLOCKS)
    channels: Channels  # k


class NetworkPlan(Record):
    """What decides the shape or the meaning of weights, beside `stages` and `latent`. Plans without it have these."""

    head_width: int = Field(
        32, gt=0, le=MAX_CHANNELS
    )  # channels of one head of attention; narrower stages have one head
    paint_width: int = Field(
        8, gt=0, le=MAX_CHANNELS
    )  # channels of the painted label map, and the least of the label encoder's layers
    label_divisor: int = Field(
        2, gt=0, le=MAX_CHANNELS
    )  # the label encoder is narrower than the image encoder by this factor
    time_factor: Channels = 4  # channels of the time embedding for each of the latent stage
    unet_timesteps: int = Field(
        1000, gt=1, le=MAX_TIMESTEPS
    )  # preset unet: T of its time embedding, and the t of its only pass
    swin_features: int = Field(
        12, gt=0, le=MAX_CHANNELS
    )  # of SwinUNETR for every 8 channels of the first stage; 48 for 32 as published
    swin_stride: Channels = 32  # SwinUNETR halves the image five times
    swin_edge: int = Field(
        64, gt=0, le=MAX_CHANNELS
    )  # voxels; SwinUNETR's deepest normalisation needs two positions along an axis

    def label_width(self, width: int) -> int:
        """Channels of a label encoder's stage, where the image encoder has `width`."""
        return max(self.paint_width, width // self.label_divisor)


class DiffusionPlan(Record):
    """The diffusion process and how it is trained."""

    timesteps: Timesteps = 1000  # T
    terminal_share: float = Field(0.75, ge=0, le=1)  # share of training samples with t = T exactly
    recycling: float = Field(0.5, ge=0, le=1)  # share of samples with t < T that are trained on their own estimate
    skip_dropout: float = Field(0.1, ge=0, le=1)  # share of samples whose decoder sees no image skips
    reconstruction: float = Field(0.5, gt=0, le=1)  # share of a batch from which the label autoencoder learns
    predicts: Literal["z_0", "eps"] = "z_0"  # what the denoiser puts out; eps: t uniform, a terminal signal above zero
    steps: int | None = Field(None, ge=1, le=MAX_TIMESTEPS)  # of DDIM; None: validation chooses


class PaperPlan(Record):
    """The publication's model where it differs from `default`, and the switches of its ablations (docs/paper.md)."""

    fusion: Literal["attention", "concatenation", "none"] = "attention"  # zeta 1: concatenation, or no text at all
    image_encoder: Literal["learned", "down-sampling"] = "learned"  # zeta 2
    label_encoder: Literal["learned", "fixed"] = "learned"  # zeta 3
    decoder_input: Literal["z_0", "z_t - eps"] = "z_0"  # while training: the estimate of eq. 3, or the parent's
    dice_weight: float = Field(2.0, ge=0)  # gamma
    latent_weight: float = Field(1.0, ge=0)  # lambda
