"""Memory and work of a plan, computed before any network is built.

The network is described once as a list of convolutions, each on the grid of a stage. Weights, activations and
multiply-accumulates (MACs) are sums over that list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Literal

from plans.geometry import Triple, triple
from plans.network_plan import NetworkPlan, Stage
from plans.plan import Plan

GB = 1e9
SLAB_BYTES = 1 << 28  # of the probabilities that leave the sums over windows at once, unless a plane needs more
MAX_SUMS_BYTES = 3e9  # of the sums in float32; larger sums are kept in float16
TOKENS_PER_LABEL = 8  # text tokens that fusion reads per queried label
# float32 weight, gradient, moving average, and AdamW's two moments. Muon has one moment. Its update needs two more
# copies, but the activations are freed by then.
BYTES_PER_WEIGHT = 20
# Autograd keeps these bytes per output value of a convolution: its input, its normalisation and its activation. On the
# GPU this is an upper bound: normalisation returns bfloat16 (`networks.blocks`), not autocast's float32.
BYTES_PER_VALUE = {"gpu": 12.5, "cpu": 10.0}
BYTES_PER_PLAIN_VALUE = {"gpu": 8.0, "cpu": 4.0}  # the same without normalisation and activation
BYTES_PER_ATTENDED_VALUE = 8.0  # at most float32 and its gradient, on both devices
MARGIN = 1.15  # factor for memory fragmentation and the workspace of convolutions
BYTES_PER_LOGIT = 24.0  # float32 logits, log-softmax, softmax, one-hot truth, products of the Dice and their gradients
FIXED_BYTES = {"gpu": 0.6 * GB, "cpu": 0.3 * GB}  # CUDA context and libraries; torch itself

Device = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Network:
    """The properties of a network that determine its memory and work."""

    stages: tuple[Stage, ...]
    level: int  # the stage where the words are fused; there the latent U-Net starts
    latent_level: int  # of the label latent
    latent_channels: int
    image_channels: int
    labels: int
    text_width: int
    diffusion: bool  # it has a denoiser
    paper: bool = False  # the publication's network: no estimator, attention in the image encoder
    plan: NetworkPlan = field(default_factory=NetworkPlan)

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
        return self.stages[self.level :]

    @property
    def denoiser_stages(self) -> tuple[Stage, ...]:
        """The stages of the denoiser; () without one."""
        if self.paper:
            return self.coarse
        return tuple(map(self.plan.denoiser_stage, self.stages[self.latent_level :])) if self.diffusion else ()

    def attentions(self, stage: int) -> int:
        """The self-attentions on a stage's grid in training: in the latent U-Net, and in the paper's encoder."""
        if not self.stages[stage].attention:
            return 0
        latent_unet = 0 if stage < self.level else 1 if stage == len(self.stages) - 1 else 2
        return latent_unet + (self.paper and stage <= self.level)

    def stride_at(self, stage: int) -> Triple:
        """The cumulative stride of a stage, in voxels (D, H, W)."""
        return triple(prod(finer.stride[axis] for finer in self.stages[: stage + 1]) for axis in range(3))


@dataclass(frozen=True)
class Convolution:
    """One convolution with its normalisation and activation."""

    stage: int  # of its output grid
    kernel: int  # number of values in the kernel, per pair of channels
    width_in: int
    width_out: int
    passes: float = 1.0  # forward passes per training iteration
    kept: float = 1.0  # those of them whose activations are kept for the gradient
    plain: bool = False  # without normalisation and activation

    @property
    def weights(self) -> int:
        """The number of weights: kernel, bias, and the normalisation's scale and shift."""
        return self.width_out * (self.kernel * self.width_in + (1 if self.plain else 3))

    def bytes_kept(self, device: Device) -> float:
        """The bytes of activations kept for the gradient, per grid position."""
        table = BYTES_PER_PLAIN_VALUE if self.plain else BYTES_PER_VALUE
        return self.kept * self.width_out * table[device]


def network_of(plan: Plan) -> Network:
    """The description of a plan's network."""
    return Network(
        stages=plan.stages,
        level=plan.fusion_level,
        latent_level=plan.latent.level,
        latent_channels=plan.latent.channels,
        image_channels=len(plan.channels),
        labels=len(plan.labels),
        text_width=plan.text.width,
        diffusion=plan.diffusion is not None or plan.paper is not None,
        paper=plan.paper is not None,
        plan=plan.network,
    )


def convolutions(net: Network) -> tuple[Convolution, ...]:
    """All convolutions. Those of the sampler count no passes: it learns alone, after all other modules."""
    layers, k = _image_encoder(net), net.latent_channels
    if net.paper:
        layers += _label_encoder(net)
        layers += _latent_unet(net.level, net.coarse, 2 * k, k)
        return (*layers, *_label_decoder(net.stages[: net.level + 1], k))
    layers += _latent_unet(net.level, net.coarse, net.coarse[0].width, None)
    layers += _label_decoder(net.stages[: net.level + 1], None)
    if net.samples:
        level = net.latent_level
        layers += _latent_unet(level, net.denoiser_stages, 2 * k + net.stages[level].width, k, passes=0, kept=0)
        layers += _label_decoder(net.stages[: level + 1], k, passes=0, kept=0)
    return tuple(layers)


def _residual(
    stage: int, width: int, kernel: Triple, count: int = 1, passes: float = 1.0, kept: float = 1.0
) -> list[Convolution]:
    return [Convolution(stage, prod(kernel), width, width, passes, kept)] * (2 * count)


def _image_encoder(net: Network) -> list[Convolution]:
    width_in, layers = net.image_channels, []
    for index, stage in enumerate(net.stages[: net.level + 1]):
        layers += [Convolution(index, prod(stage.kernel), width_in, stage.width)]
        if net.paper or index < net.level:  # else the estimator has the blocks of the latent grid
            layers += _residual(index, stage.width, stage.kernel, stage.blocks)
        width_in = stage.width
    return layers


def _label_encoder(net: Network) -> list[Convolution]:
    width_in, layers = 1, [Convolution(0, 1, 0, 1, plain=True)]
    for index, stage in enumerate(net.stages[1 : net.level + 1], start=1):
        width = net.plan.label_width(stage.width)
        layers += [Convolution(index, 27, width_in, width)]
        layers += _residual(index, width, stage.kernel)
        width_in = width
    return [*layers, Convolution(net.level, 1, width_in, net.latent_channels, plain=True)]


def _latent_unet(
    level: int, stages: Sequence[Stage], width_in: int, width_out: int | None, passes: float = 1.0, kept: float = 1.0
) -> list[Convolution]:
    first = stages[0]
    layers = [Convolution(level, prod(first.kernel), width_in, first.width, passes, kept)]
    for index, stage in enumerate(stages, start=level):
        layers += _residual(index, stage.width, stage.kernel, stage.blocks, passes, kept)
    for index, (fine, coarse) in enumerate(pairwise(stages), start=level):
        layers += [Convolution(index + 1, prod(coarse.kernel), fine.width, coarse.width, passes, kept)]
        layers += [_transposed(index, fine, coarse, passes, kept)]
        layers += _residual(index, fine.width, fine.kernel, passes=passes, kept=kept)
    if width_out is None:
        return layers
    return [*layers, Convolution(level, 1, first.width, width_out, passes, kept, plain=True)]


def _transposed(stage: int, fine: Stage, coarse: Stage, passes: float, kept: float) -> Convolution:
    """A transposed convolution: each output voxel reads one input voxel. `parameters` counts its other weights."""
    return Convolution(stage, 1, coarse.width, fine.width, passes, kept, plain=True)


def _label_decoder(
    stages: Sequence[Stage], latent_channels: int | None, passes: float = 1.0, kept: float = 1.0
) -> list[Convolution]:
    last, layers = stages[-1], []
    if latent_channels is not None:
        layers += [Convolution(len(stages) - 1, prod(last.kernel), latent_channels, last.width, passes, kept)]
    for index, (fine, coarse) in enumerate(pairwise(stages)):
        layers += [_transposed(index, fine, coarse, passes, kept)]
        layers += [Convolution(index, prod(fine.kernel), fine.width, fine.width, passes, kept)] * fine.up
    return layers


def parameters(net: Network) -> int:
    """The number of weights of the model, without the text encoder."""
    total = sum(layer.weights for layer in convolutions(net))
    unets = (() if net.paper else (net.coarse,)) + ((net.denoiser_stages,) if net.diffusion else ())
    decoders = (net.stages[: net.level + 1], *((net.stages[: net.latent_level + 1],) if net.samples else ()))
    for stages in (*decoders, *unets):
        for fine, coarse in pairwise(stages):  # a transposed kernel has prod(stride) values; 1 is counted above
            total += (prod(coarse.stride) - 1) * fine.width * coarse.width
    if net.diffusion:
        total += _of_time(net)
    for stages in unets:
        attending = [*stages, *stages[:-1]]  # both paths
        total += sum(4 * stage.width**2 for stage in attending if stage.attention)
    if net.paper:
        total += sum(4 * stage.width**2 for stage in net.stages[: net.level + 1] if stage.attention)
    total += 2 * net.coarse[0].width * (net.coarse[0].width + net.text_width)  # fusion
    if net.paper:
        return total + net.stages[0].width * (1 + net.labels) + net.coarse[0].width * net.latent_channels
    return total + (1 + net.samples) * net.text_width * (net.stages[0].width + 1)  # classifiers


def _of_time(net: Network) -> int:
    """The weights of the time embedding and its projections in the denoiser's blocks."""
    stages = net.denoiser_stages
    time_width = net.plan.time_factor * stages[0].width
    timed = sum(stage.width * (stage.blocks + 1) for stage in stages) - stages[-1].width
    return 2 * time_width**2 + 2 * (time_width + 1) * timed


def grid(net: Network, patch: Triple, stage: int) -> int:
    """The number of positions of a stage's grid for one patch."""
    return prod(-(-size // stride) for size, stride in zip(patch, net.stride_at(stage), strict=True))


def macs(net: Network, patch: Triple) -> float:
    """The multiply-accumulates of one sample's forward passes in one training iteration."""
    grids = [grid(net, patch, stage) for stage in range(len(net.stages))]
    total = sum(
        layer.passes * grids[layer.stage] * layer.kernel * layer.width_in * layer.width_out
        for layer in convolutions(net)
    )
    total += grids[0] * net.stages[0].width * (1 + net.labels)
    for index, stage in enumerate(net.stages):
        if net.attentions(index):
            total += 2 * grids[index] * stage.width * (4 * stage.width + 2 * grids[index])
    width, tokens = net.stages[net.level].width, TOKENS_PER_LABEL * (net.labels + 1)
    return total + grids[net.level] * width * (2 * width + 2 * tokens)


def training_bytes(net: Network, patch: Triple, batch: int, device: Device) -> float:
    """The peak memory of one training iteration, in bytes."""
    grids = [grid(net, patch, stage) for stage in range(len(net.stages))]
    activations = sum(layer.bytes_kept(device) * grids[layer.stage] for layer in convolutions(net))
    for index, stage in enumerate(net.stages):
        attentions = net.attentions(index) + (index == net.level)  # fusion is one more
        activations += attentions * 6 * grids[index] * stage.width * BYTES_PER_ATTENDED_VALUE
    gradients = 3 * 4 * grids[0] * net.stages[0].width
    logits = grids[0] * (1 + net.labels) * BYTES_PER_LOGIT
    inputs = grids[0] * (4 * net.image_channels + 16)
    per_sample = MARGIN * (activations + gradients + logits + inputs)
    return FIXED_BYTES[device] + BYTES_PER_WEIGHT * parameters(net) + batch * per_sample


def prediction_bytes(net: Network, patch: Triple, device: Device, windows: int = 1) -> float:
    """The peak memory of predicting `windows` at once, in bytes: weights, skips, the widest stage, probabilities."""
    grids = [grid(net, patch, stage) for stage in range(len(net.stages))]
    skips = sum(grids[index] * stage.width for index, stage in enumerate(net.stages))
    values = skips + 4 * grids[0] * net.stages[0].width + 2 * grids[0] * (1 + net.labels)
    of_window = 4.0 * values + 4 * grids[0] * net.image_channels
    return FIXED_BYTES[device] + 4 * parameters(net) + windows * of_window


def bytes_per_sum(classes: int, voxels: int) -> int:
    """The bytes of a number in the sums over windows: 4, or 2 where 4 would exceed `MAX_SUMS_BYTES`.

    It depends on the scan's shape and on the labels alone. So masks do not depend on the machine.
    """
    return 4 if 4 * classes * voxels <= MAX_SUMS_BYTES else 2


def sums_bytes(classes: int, voxels: int) -> float:
    """The bytes of sums over windows, for `voxels` of one patch along D (`inference.windows`)."""
    return voxels * (bytes_per_sum(classes, voxels) * classes + 4.0)


def slab_bytes(classes: int, voxels: int, plane: int) -> float:
    """The bytes of a slab that leaves the sums: at most `SLAB_BYTES`, but at least one plane of `plane` voxels."""
    return min(max(SLAB_BYTES, 4.0 * classes * plane), 4.0 * classes * voxels)


def reading_bytes(channels: int, shape: Triple, original_shape: Triple) -> float:
    """The host memory of reading a case and resampling it to `shape`, in bytes."""
    return 4.0 * channels * (3 * prod(original_shape) + 2 * prod(shape))


def ram_bytes(channels: int, labels: int, patch: Triple, shape: Triple, original_shape: Triple) -> float:
    """The host memory of predicting one case slab by slab, in bytes.

    On the plan's grid: the image, the sums over one patch along D, and three copies of a slab. On the file's grid:
    class, label and file.
    """
    voxels, plane, classes = patch[0] * shape[1] * shape[2], shape[1] * shape[2], 1 + labels
    slabs = sums_bytes(classes, voxels) + 3 * slab_bytes(classes, voxels, plane)
    return 4.0 * channels * prod(shape) + slabs + 6.0 * prod(original_shape)


def disk_bytes(channels: int, shapes: tuple[Triple, ...], original_shapes: tuple[Triple, ...]) -> float:
    """The disk space of stored cases, in bytes. Compression leaves two thirds of an image, a few per cent of labels."""
    images = sum(2 * channels * prod(shape) for shape in shapes) * 0.67
    return images + 0.1 * sum(prod(shape) for shape in (*shapes, *original_shapes)) + 50_000 * len(shapes)
