"""`Plan`: every decision about a data set, typed, frozen, versioned; read from and written to `plan.json`."""

from collections.abc import Sequence
from math import prod
from typing import Final, Literal

from pydantic import Field, model_validator

from plans.choices import PeerNetwork, Preset, Resolution
from plans.geometry import Shape, Spacing, Triple, cumulative, triple
from plans.network_plan import (
    MAX_BLOCKS,
    MAX_CHANNELS,
    Channels,
    DiffusionPlan,
    LatentPlan,
    NetworkPlan,
    OverviewPlan,
    PaperPlan,
    Stage,
)
from plans.records import Record
from plans.regions import Regions, numbered, values_of

PLAN_VERSION: Final = 2
MAX_LABEL_VALUE = 2**31 - 1  # of a voxel in a label file
Scheme = Literal["ct", "zscore", "rescale_to_0_1", "none"]
Crop = Literal["none", "nonzero", "body"]
AugmentationKind = Literal[
    "strong",  # nnU-Net's, and what other scanners may change
    "full",  # nnU-Net's
    "paper",  # flips, rotations, scaling and shifts of intensity
]


class ChannelPlan(Record):
    """The normalisation of one input channel (nnU-Net's intensity schemes)."""

    name: str
    scheme: Scheme
    foreground_only: bool = False  # z-score inside the nonzero mask alone (nnU-Net's mask rule)
    mean: float = 0.0  # of foreground voxels over the data set, in the channel's own units (HU for CT)
    std: float = Field(1.0, gt=0)
    low: float = 0.0  # 0.5 percentile of foreground voxels
    high: float = 0.0  # 99.5 percentile of foreground voxels
    optional: bool = False  # a case may lack it; a missing channel is 0 after normalisation

    @model_validator(mode="before")
    @classmethod
    def _drop_unused_statistics(cls, values: object) -> object:
        """Only the scheme `ct` reads the statistics. Older plans have them for all schemes."""
        if not isinstance(values, dict) or values.get("scheme") == "ct":
            return values
        return {name: value for name, value in values.items() if name not in ("mean", "std", "low", "high")}


class LabelPlan(Record):
    """One foreground label. Inside the project labels are numbered 1..N in the order of `Plan.labels`."""

    name: str
    # The value in the user's files. If labels overlap, the value that predictions write.
    value: int = Field(ge=-MAX_LABEL_VALUE, le=MAX_LABEL_VALUE)


class TextPlan(Record):
    """The text encoder. The model reads its vectors."""

    encoder: str  # "bundled", a hub name, or a local folder
    width: Channels  # d_t
    stands_in_for: str | None = None  # the preset's encoder, if another one is used
    of_cases: bool = False  # some cases have a text of their own

    @property
    def note(self) -> str | None:
        """A sentence for reports if another encoder than the preset's is used; else None."""
        if self.stands_in_for is None:
            return None
        return (
            f"Text encoder: {self.encoder} stands in for {self.stands_in_for}. If the hub and its cache do not have "
            "that encoder, give its folder with --text-encoder."
        )


class TrainingPlan(Record):
    """Optimisation settings."""

    epochs: int = Field(gt=0)
    iterations_per_epoch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1)  # share of all iterations in which the learning rate rises linearly
    ema: float = Field(ge=0, lt=1)  # decay of the exponential moving average of the weights, per iteration
    foreground_share: float = Field(ge=0, le=1)  # share of patches centred on a foreground voxel
    augmentation: AugmentationKind = "full"  # that of plans before 0.3
    optimiser: Literal["muon", "adamw"] = "muon"  # Muon for matrices and AdamW for the rest, or AdamW alone
    averaged: Literal["all", "denoiser"] = "all"  # the weights that `ema` averages; the others are used as they are


class MemoryPlan(Record):
    """The estimated memory, in GB (1e9 bytes), and the budget."""

    budget_gb: float = Field(gt=0)
    training_gb: float = Field(gt=0)  # weights, optimiser and activations of one training batch
    prediction_gb: float = Field(gt=0)  # one window
    ram_gb: float = Field(gt=0)  # host memory while predicting a case of the largest size seen
    disk_gb: float = Field(gt=0)  # stored cases of the whole data set


class LowResolutionPlan(Record):
    """Summary of the low-resolution plan by nnU-Net's 3d_lowres rule. It has a plan of its own."""

    spacing: Spacing
    median_shape: Shape
    patch: Shape
    windows_full: int  # windows of a median case at full resolution, overlap 0.5
    windows_low: int
    note: str


class Decision(Record):
    """One row of the table of reasons."""

    name: str
    value: str
    reason: str  # the rule and the numbers behind it


def reads_words(peer: PeerNetwork | None, paper: PaperPlan | None) -> bool:
    """Whether a network reads the query. Otherwise it predicts all labels every time."""
    return peer is None and (paper is None or paper.fusion != "none")


class Plan(Record):
    """All settings of preprocessing, training and prediction. The axis order is (D, H, W) = (z, y, x).

    The lists in `plans.fields` say where models, folds and stored cases must have equal fields.
    """

    version: Literal[2] = PLAN_VERSION
    preset: Preset
    resolution: Resolution = "full"
    dataset: str  # folder name, e.g. Dataset004_Hippocampus
    device: Literal["gpu", "cpu"]  # the device of the budget
    channels: tuple[ChannelPlan, ...] = Field(min_length=1)
    labels: tuple[LabelPlan, ...] = Field(min_length=1)
    regions: Regions | None = None  # the values of each label; None: labels do not overlap
    known_together: tuple[tuple[int, ...], ...] = ()  # label numbers that are known in the same cases; () if all are
    spacing: Spacing  # target spacing
    median_shape: Shape  # median case after cropping and resampling to `spacing`
    crop: Crop = "nonzero"  # what is kept of a scan: all, the box of nonzero voxels, or the body with a margin
    patch: Shape
    batch: int = Field(gt=0, le=MAX_CHANNELS)
    stages: tuple[Stage, ...] = Field(min_length=2)
    fusion_level: int = Field(ge=1, le=MAX_BLOCKS)  # the stage where words meet features; the estimator starts there
    latent: LatentPlan
    network: NetworkPlan = NetworkPlan()
    overview: OverviewPlan | None = None  # None: the network reads its window alone
    diffusion: DiffusionPlan | None  # of preset default
    paper: PaperPlan | None = None  # None: not the publication's model
    peer: PeerNetwork | None = None  # a network for comparison in place of ours
    text: TextPlan
    training: TrainingPlan
    mirror_axes: tuple[Literal[0, 1, 2], ...]  # axes that may be mirrored; 2 is left-right
    text_axes: tuple[Literal[0, 1, 2], ...] = ()  # further axes that may be mirrored where no text is read
    memory: MemoryPlan
    low_resolution: LowResolutionPlan | None = None
    reasons: tuple[Decision, ...] = ()

    @property
    def optional_channels(self) -> tuple[int, ...]:
        """The numbers of the channels that a case may lack."""
        return tuple(number for number, channel in enumerate(self.channels) if channel.optional)

    @property
    def reads_words(self) -> bool:
        """Whether the network reads the query. Otherwise it predicts all labels every time."""
        return reads_words(self.peer, self.paper)

    @property
    def reads_texts(self) -> bool:
        """Whether the network reads the texts of cases."""
        return self.text.of_cases and self.reads_words

    @property
    def classifies_words(self) -> bool:
        """Whether text vectors are the classifier: any words can be queried. Otherwise each label has a channel."""
        return self.peer is None and self.paper is None

    @property
    def sample_steps(self) -> int | None:
        """The DDIM steps of a diffusion sample; None: the model has no samples."""
        settings = self.paper or self.diffusion
        return settings.steps if settings else None

    @property
    def n_factors(self) -> int:
        """The number of common factors that a diffusion sample draws first."""
        return self.diffusion.n_factors if self.diffusion else 0

    @property
    def max_steps(self) -> int | None:
        """The most DDIM steps that a sample can take; None: any number."""
        return self.paper.timesteps if self.paper else None

    @property
    def mask_steps(self) -> int:
        """The DDIM steps behind a mask: 0, unless the mask is a sample (the publication's presets)."""
        return self.paper.steps if self.paper else 0

    @property
    def value_numbers(self) -> Regions:
        """The numbers in stored cases that belong to each label: its own number, unless labels overlap."""
        if self.regions is None:
            return tuple((number,) for number in range(1, len(self.labels) + 1))
        return numbered(self.regions)

    @property
    def written_numbers(self) -> tuple[int, ...]:
        """The number that a prediction writes for each label, as in stored cases."""
        if self.regions is None:
            return tuple(range(1, len(self.labels) + 1))
        return tuple(values_of(self.regions).index(label.value) + 1 for label in self.labels)

    def rivals(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The numbers of the other labels that are known in the same cases as one of these labels."""
        together = self.known_together or (tuple(range(1, len(self.labels) + 1)),)
        learned = {number for known in together if not {*known}.isdisjoint(numbers) for number in known}
        return tuple(sorted(learned.difference(numbers)))

    @property
    def latent_stride(self) -> Triple:
        """The voxels of the image per position of the latent grid, (D, H, W)."""
        return self.stride_at(self.latent.level)

    @property
    def latent_shape(self) -> Triple:
        """The positions of a patch's latent grid, (D, H, W)."""
        return triple(edge // stride for edge, stride in zip(self.patch, self.latent_stride, strict=True))

    @property
    def total_stride(self) -> Triple:
        """The voxels of the image per position of the coarsest stage, (D, H, W)."""
        return self.stride_at(len(self.stages) - 1)

    def stride_at(self, level: int) -> Triple:
        """The cumulative stride of stage `level` relative to the image, (D, H, W)."""
        return cumulative(stage.stride for stage in self.stages[: level + 1])

    @model_validator(mode="after")
    def _sensible(self) -> "Plan":
        for name, level in (("latent.level", self.latent.level), ("fusion_level", self.fusion_level)):
            if level > len(self.stages) - 1:
                raise ValueError(f"{name} {level} is beyond the last of {len(self.stages)} stages")
        if self.latent.level > self.fusion_level:
            raise ValueError(f"latent.level {self.latent.level} is beyond fusion_level {self.fusion_level}")
        if self.stages[0].stride != (1, 1, 1):
            raise ValueError(f"stages.0.stride must be (1, 1, 1), found {self.stages[0].stride}")
        if any(stride not in (1, 2) for stage in self.stages for stride in stage.stride):
            raise ValueError("strides must be 1 or 2")
        if any(kernel not in (1, 3) for stage in self.stages for kernel in stage.kernel):
            raise ValueError("kernels must be 1 or 3")
        if any(size % stride for size, stride in zip(self.patch, self.total_stride, strict=True)):
            raise ValueError(f"patch {self.patch} is not divisible by the strides {self.total_stride}")
        if prod(self.patch) < 2 * prod(self.total_stride):
            raise ValueError(f"patch {self.patch} leaves one voxel after the strides {self.total_stride}")
        values = [label.value for label in self.labels]
        names = [label.name for label in self.labels]
        if len(set(values)) < len(values) or len(set(names)) < len(names) or 0 in values:
            raise ValueError("labels need distinct names and distinct values other than 0")
        if self.regions is not None:
            self._check_regions(self.regions)
        if self.peer and (self.paper or self.diffusion):
            raise ValueError("a peer has neither paper nor diffusion")
        if self.overview and (self.paper or self.peer):
            raise ValueError("overview is not for paper or a peer")
        if self.paper and (self.diffusion or self.latent.channels != 1):
            raise ValueError("paper has its own diffusion, and needs latent.channels 1")
        if self.paper and self.latent.level != self.fusion_level:
            raise ValueError("paper needs latent.level and fusion_level to be equal")
        if len({*self.mirror_axes, *self.text_axes}) < len(self.mirror_axes) + len(self.text_axes):
            raise ValueError("mirror_axes and text_axes list an axis twice")
        return self

    def _check_regions(self, regions: Regions) -> None:
        """Raise `ValueError` if the regions do not fit the labels."""
        known = values_of(regions)
        if len(regions) != len(self.labels) or not all(regions) or min(known, default=1) < 1:
            raise ValueError("regions needs one or more values of 1 or more per label")
        if not {label.value for label in self.labels} <= set(known):
            raise ValueError("if labels overlap, each label's value must be a value of regions")
        if self.paper:
            raise ValueError("paper has no regions: it paints label numbers, which cannot overlap")
