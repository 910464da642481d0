"""The parts of a `Plan` that describe the network: stages, latent, diffusion, and the publication's switches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    blocks: int = Field(ge=0, le=MAX_BLOCKS)  # residual blocks on the way down
    up: Literal[0, 1, 2] = 2  # convolutions on the way up; 2 form a residual block
    attention: bool = False  # self-attention (from the fusion's grid down; with `Plan.paper` in the image encoder too)


class LatentPlan(Record):
    """The label latent, which diffusion samples. Its grid is that of `Plan.stages[level]`."""

    level: int = Field(ge=1, le=MAX_BLOCKS)
    channels: Channels  # k


class NetworkPlan(Record):
    """Settings besides `stages` and `latent` that decide the shape or meaning of weights."""

    head_width: Channels = 32  # of one attention head; narrower stages have one head
    least_width: Channels = 8  # of the layers of label encoder and denoiser
    label_divisor: Channels = 2  # the publication's label encoder is narrower than the image encoder by this factor
    denoiser_divisor: Channels = 2  # and so is the denoiser, of preset default
    time_factor: Channels = 4  # channels of the time embedding per channel of the denoiser's first stage
    swin_features: Channels = 12  # of SwinUNETR per 8 channels of the first stage; published: 48 for 32
    swin_stride: Channels = 32  # SwinUNETR halves the image five times
    swin_edge: Channels = 64  # voxels; SwinUNETR's deepest normalisation needs two positions along an axis

    def label_width(self, width: int) -> int:
        """The channels of a label encoder's stage, if the image encoder's stage has `width`."""
        return max(self.least_width, width // self.label_divisor)

    def denoiser_stage(self, stage: Stage) -> Stage:
        """The denoiser's stage on the grid of `stage`, of preset `default`: narrower, with at most one block."""
        width = max(self.least_width, stage.width // self.denoiser_divisor)
        return stage.model_copy(update={"width": width, "blocks": min(1, stage.blocks), "up": 2})


class OverviewPlan(Record):
    """The overview of the scan: the whole scan at low resolution, which becomes tokens beside the words."""

    edge: int = Field(32, ge=8, le=64)  # cells along each axis of the scan
    widths: tuple[Channels, ...] = Field((16, 32, 64), min_length=1)  # of the strided blocks, each of which halves it

    @property
    def cells(self) -> int:
        """The tokens along each axis."""
        return self.edge >> len(self.widths)

    @model_validator(mode="after")
    def _divisible(self) -> "OverviewPlan":
        if self.edge % (1 << len(self.widths)):
            raise ValueError(f"edge {self.edge} is not divisible by the strides of {len(self.widths)} blocks")
        return self


class DiffusionPlan(Record):
    """The residual diffusion of preset `default` (docs/method.md)."""

    share: float = Field(0.05, gt=0, lt=1)  # of the training time, the last, in which the sampler learns
    min_log_snr: float = Field(ge=-50, le=50)  # of the noisiest latent, where sampling starts
    max_log_snr: float = Field(5.0, ge=-50, le=50)  # of the cleanest latent that the denoiser reads
    steps: int = Field(8, ge=1, le=MAX_TIMESTEPS)  # of DDIM, for a sample
    decoder: Literal["likelihood", "learned"] = "learned"  # of samples; plans older than 0.3 have a learned one
    n_factors: int = Field(0, ge=0, le=MAX_CHANNELS)  # R, which a sample draws first; plans older than 0.3 have none


class PaperPlan(Record):
    """The publication's model and its ablations (docs/paper.md)."""

    timesteps: Timesteps = 1000  # T; t is uniform
    steps: int = Field(10, ge=1, le=MAX_TIMESTEPS)  # of DDIM
    fusion: Literal["attention", "concatenation", "none"] = "attention"  # zeta 1: concatenation, or no text at all
    image_encoder: Literal["learned", "down-sampling"] = "learned"  # zeta 2
    label_encoder: Literal["learned", "fixed"] = "learned"  # zeta 3
    decoder_input: Literal["z_0", "z_t - eps"] = "z_0"  # in training: the estimate of eq. 3, or LDSeg's
    dice_weight: float = Field(2.0, ge=0)  # gamma
    latent_weight: float = Field(1.0, ge=0)  # lambda
