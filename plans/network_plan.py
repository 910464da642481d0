"""The parts of a `Plan` that describe the network: stages, latent, diffusion, and the publication's switches."""

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
    """The label latent: its grid is that of `Plan.stages[level]`."""

    level: int = Field(ge=1, le=MAX_BLOCKS)
    channels: Channels  # k


class NetworkPlan(Record):
    """Settings besides `stages` and `latent` that decide the shape or meaning of weights.

    Plans without them have these defaults.
    """

    head_width: Channels = 32  # of one attention head; narrower stages have one head
    paint_width: Channels = 8  # of the painted label map; no layer of the label encoder has fewer
    label_divisor: Channels = 2  # the label encoder is narrower than the image encoder by this factor
    time_factor: Channels = 4  # channels of the time embedding per channel of the latent stage
    unet_timesteps: Timesteps = 1000  # preset unet: T of its time embedding, and the t of its only pass
    swin_features: Channels = 12  # of SwinUNETR per 8 channels of the first stage; published: 48 for 32
    swin_stride: Channels = 32  # SwinUNETR halves the image five times
    swin_edge: Channels = 64  # voxels; SwinUNETR's deepest normalisation needs two positions along an axis

    def label_width(self, width: int) -> int:
        """The channels of a label encoder's stage, if the image encoder's stage has `width`."""
        return max(self.paint_width, width // self.label_divisor)


class DiffusionPlan(Record):
    """The diffusion process and its training."""

    timesteps: Timesteps = 1000  # T
    terminal_share: float = Field(0.75, ge=0, le=1)  # share of training samples with t = T exactly
    recycling: float = Field(0.5, ge=0, le=1)  # share of samples with t < T that are trained on their own estimate
    skip_dropout: float = Field(0.1, ge=0, le=1)  # share of samples whose decoder sees no image skips
    reconstruction: float = Field(0.5, gt=0, le=1)  # share of a batch from which the label autoencoder learns
    predicts: Literal["z_0", "eps"] = "z_0"  # the denoiser's output; eps: t is uniform, with some signal left at T
    steps: int | None = Field(None, ge=1, le=MAX_TIMESTEPS)  # of DDIM; None: validation chooses


class PaperPlan(Record):
    """The differences of the publication's model from `default`, and its ablations (docs/paper.md)."""

    fusion: Literal["attention", "concatenation", "none"] = "attention"  # zeta 1: concatenation, or no text at all
    image_encoder: Literal["learned", "down-sampling"] = "learned"  # zeta 2
    label_encoder: Literal["learned", "fixed"] = "learned"  # zeta 3
    decoder_input: Literal["z_0", "z_t - eps"] = "z_0"  # in training: the estimate of eq. 3, or LDSeg's
    dice_weight: float = Field(2.0, ge=0)  # gamma
    latent_weight: float = Field(1.0, ge=0)  # lambda
