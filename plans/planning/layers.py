"""A network described as lists of convolutions, each on the grid of a stage, before it is built.

`plans.planning.memory` sums weights, activations and multiplications over these lists.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from plans.geometry import Triple, cumulative
from plans.network_plan import NetworkPlan, OverviewPlan, Stage

PLACE_CHANNELS = 3  # coordinates (D, H, W) of a latent position, which the factors' network reads


@dataclass(frozen=True)
class NetworkShape:
    """The properties of a network that determine its memory and work."""

    stages: tuple[Stage, ...]
    fusion_level: int  # the stage where the words are fused; there the latent U-Net starts
    latent_level: int  # of the label latent
    latent_channels: int
    image_channels: int
    labels: int
    text_width: int
    diffusion: bool  # it has a denoiser
    paper: bool = False  # the publication's network: no estimator, attention in the image encoder
    settings: NetworkPlan = field(default_factory=NetworkPlan)
    overview: OverviewPlan | None = None  # of the scan
    n_factors: int = 0  # common factors of a sample of preset `default`

    @property
    def samples(self) -> bool:
        """Whether it has a sampler beside the masks (preset `default`)."""
        return self.diffusion and not self.paper

    @property
    def stride(self) -> Triple:
        """The cumulative stride of the coarsest stage, in voxels (D, H, W)."""
        return self.stride_at(len(self.stages) - 1)

    @property
    def coarse(self) -> tuple[Stage, ...]:
        """The stages of the fusion's grid and below."""
        return self.stages[self.fusion_level :]

    @property
    def denoiser_stages(self) -> tuple[Stage, ...]:
        """The stages of the denoiser; () without one."""
        if self.paper:
            return self.coarse
        return tuple(map(self.settings.denoiser_stage, self.stages[self.latent_level :])) if self.diffusion else ()

    def attentions(self, stage: int) -> int:
        """The self-attentions on a stage's grid: in the latent U-Net, and in the paper's encoder."""
        if not self.stages[stage].attention:
            return 0
        latent_unet = 0 if stage < self.fusion_level else self._in_both_paths(stage)
        return latent_unet + (self.paper and stage <= self.fusion_level)

    def sampler_attentions(self, stage: int) -> int:
        """The self-attentions on a stage's grid of the denoiser of preset `default`, and of its factors' network."""
        reached = self.samples and stage >= self.latent_level
        return self._in_both_paths(stage) if reached and self.stages[stage].attention else 0

    def stride_at(self, stage: int) -> Triple:
        """The cumulative stride of a stage, in voxels (D, H, W)."""
        return cumulative(finer.stride for finer in self.stages[: stage + 1])

    def _in_both_paths(self, stage: int) -> int:
        """How often a U-Net visits a stage: on the way down and up, but the coarsest stage only once."""
        return 1 if stage == len(self.stages) - 1 else 2


@dataclass(frozen=True)
class Convolution:
    """One convolution with its normalisation and activation.

    `kept` counts the tensors of the output's size that autograd keeps, up to the input of the next convolution. Of
    convolution, normalisation and activation in place, it keeps the convolution's output and the activation.
    """

    stage: int  # of its output grid
    kernel: int  # number of values in the kernel, per pair of channels
    width_in: int
    width_out: int
    kept: int = 2
    plain: bool = False  # without normalisation and activation
    copies_input: bool = False  # autograd keeps a concatenated copy of the input, which is on the same grid

    @property
    def weights(self) -> int:
        """The number of weights: kernel, bias, and the normalisation's scale and shift."""
        return self.width_out * (self.kernel * self.width_in + (1 if self.plain else 3))

    @property
    def values_kept(self) -> int:
        """The values that autograd keeps, per grid position."""
        return self.kept * self.width_out + self.copies_input * self.width_in


def mask_layers(net: NetworkShape) -> tuple[Convolution, ...]:
    """The convolutions that make the mask. In preset `paper`, all convolutions."""
    layers, k, decoded = _image_encoder(net), net.latent_channels, net.stages[: net.fusion_level + 1]
    if net.paper:
        layers += _label_encoder(net)
        layers += _latent_unet(net.fusion_level, net.coarse, 2 * k, k, timed=True)
        return (*layers, *_label_decoder(decoded, k))
    layers += _latent_unet(net.fusion_level, net.coarse, net.coarse[0].width, None, timed=False)
    return (*layers, *_label_decoder(decoded, None))


def denoiser_layers(net: NetworkShape) -> tuple[Convolution, ...]:
    """The convolutions of the denoiser of preset `default`; () in other presets."""
    if not net.samples:
        return ()
    level, k = net.latent_level, net.latent_channels
    return tuple(_latent_unet(level, net.denoiser_stages, 2 * k + net.stages[level].width, k, timed=True))


def factor_layers(net: NetworkShape) -> tuple[Convolution, ...]:
    """The convolutions of the network of the factors' loadings, of preset `default`; () in other presets."""
    if not (net.samples and net.n_factors):
        return ()
    level, k = net.latent_level, net.latent_channels
    width_in = 2 * k + PLACE_CHANNELS + net.stages[level].width
    return tuple(_latent_unet(level, net.denoiser_stages, width_in, net.n_factors * k, timed=False))


def convolutions(net: NetworkShape) -> tuple[Convolution, ...]:
    """All convolutions."""
    return (*mask_layers(net), *denoiser_layers(net), *factor_layers(net))


def _residual(stage: int, width: int, kernel: Triple, timed: bool = False) -> Iterable[Convolution]:
    """A residual block. Autograd also keeps its sum and, with a time embedding, the value that is scaled."""
    yield Convolution(stage, prod(kernel), width, width)
    yield Convolution(stage, prod(kernel), width, width, kept=3 + timed)


def _image_encoder(net: NetworkShape) -> list[Convolution]:
    width_in, layers = net.image_channels, []
    for index, stage in enumerate(net.stages[: net.fusion_level + 1]):
        layers += [Convolution(index, prod(stage.kernel), width_in, stage.width)]
        if net.paper or index < net.fusion_level:  # else the estimator has the blocks of the latent grid
            layers += [*_residual(index, stage.width, stage.kernel)] * stage.blocks
        width_in = stage.width
    return layers


def _label_encoder(net: NetworkShape) -> list[Convolution]:
    width_in, layers = 1, [Convolution(0, 1, 0, 1, kept=1, plain=True)]  # the label map
    for index, stage in enumerate(net.stages[1 : net.fusion_level + 1], start=1):
        width = net.settings.label_width(stage.width)
        layers += [Convolution(index, 27, width_in, width), *_residual(index, width, stage.kernel)]
        width_in = width
    return [*layers, Convolution(net.fusion_level, 1, width_in, net.latent_channels, plain=True)]


def _latent_unet(
    level: int, stages: Sequence[Stage], width_in: int, width_out: int | None, timed: bool
) -> list[Convolution]:
    first = stages[0]
    layers = [Convolution(level, prod(first.kernel), width_in, first.width, copies_input=True)]
    for index, stage in enumerate(stages, start=level):
        layers += [*_residual(index, stage.width, stage.kernel, timed)] * stage.blocks
    for index, (fine, coarse) in enumerate(pairwise(stages), start=level):
        layers += [Convolution(index + 1, prod(coarse.kernel), fine.width, coarse.width)]
        layers += [_transposed(index, fine, coarse), *_residual(index, fine.width, fine.kernel, timed)]
    if width_out is None:
        return layers
    return [*layers, Convolution(level, 1, first.width, width_out, kept=1, plain=True)]


def _transposed(stage: int, fine: Stage, coarse: Stage, kept: int = 1) -> Convolution:
    """A transposed convolution: each output voxel reads one input voxel. `parameters` counts its other weights.

    Autograd keeps one tensor: its sum with the skip, or its output if there is no skip.
    """
    return Convolution(stage, 1, coarse.width, fine.width, kept, plain=True)


def _label_decoder(stages: Sequence[Stage], latent_channels: int | None) -> list[Convolution]:
    last, layers = stages[-1], []
    if latent_channels is not None:
        entering = Convolution(len(stages) - 1, prod(last.kernel), latent_channels, last.width, 3, copies_input=True)
        layers += [entering]  # the third tensor is its sum with the skip
    for index, (fine, coarse) in enumerate(pairwise(stages)):
        layers += [_transposed(index, fine, coarse, kept=1 if fine.up else 2)]  # without a convolution, an activation
        if fine.up == 1:
            layers += [Convolution(index, prod(fine.kernel), fine.width, fine.width)]
        elif fine.up == 2:
            layers += _residual(index, fine.width, fine.kernel)
    return layers
