"""Memory and work of a plan, computed before any network is built.

The network is described once as a list of convolutions, each on the grid of a stage. Weights, activations and
multiply-accumulates (MACs) are sums over that list.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Literal

from plans.geometry import Triple, triple
from plans.network_plan import DiffusionPlan, NetworkPlan, Stage
from plans.plan import Plan

GB = 1e9
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
# The share of samples whose denoiser runs twice, the first time without gradients. On a GPU it is twice as large.
RECYCLED = (1 - DiffusionPlan().terminal_share) * DiffusionPlan().recycling
RECONSTRUCTED = DiffusionPlan().reconstruction  # the share of the samples that train the label autoencoder

Device = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Network:
    """The properties of a network that determine its memory and work."""

    stages: tuple[Stage, ...]
    level: int  # of the latent grid
    latent_channels: int
    image_channels: int
    labels: int
    text_width: int
    diffusion: bool  # it has a label encoder, a second decoding and recycling
    paper: bool = False  # the publication's network: one decoding, no recycling, attention in the image encoder
    plan: NetworkPlan = field(default_factory=NetworkPlan)

    @property
    def stride(self) -> Triple:
        """The cumulative stride of the coarsest stage, in voxels (D, H, W)."""
        return self.stride_at(len(self.stages) - 1)

    @property
    def decodings(self) -> float:
        """Label decoder passes per sample and training iteration: the estimate, and in `default` the reconstruction."""
        return 1 + RECONSTRUCTED if self.diffusion and not self.paper else 1.0

    @property
    def denoisings(self) -> float:
        """Denoiser passes per sample and training iteration."""
        return 1 + RECYCLED if self.diffusion and not self.paper else 1.0

    @property
    def condition(self) -> int:
        """The number of channels of z_it."""
        return self.latent_channels if self.paper else self.stages[self.level].width

    def attentions(self, stage: int) -> int:
        """The number of self-attentions on a stage's grid: in both denoiser paths, and in the paper's image encoder."""
        if not self.stages[stage].attention:
            return 0
        denoiser = 0 if stage < self.level else 1 if stage == len(self.stages) - 1 else 2
        return denoiser + (self.paper and stage <= self.level)

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

    def bytes_kept(self, device: "Device") -> float:
        """The bytes of activations kept for the gradient, per grid position."""
        table = BYTES_PER_PLAIN_VALUE if self.plain else BYTES_PER_VALUE
        return self.kept * self.width_out * table[device]


def network_of(plan: Plan) -> Network:
    """The description of a plan's network."""
    return Network(
        stages=plan.stages,
        level=plan.latent.level,
        latent_channels=plan.latent.channels,
        image_channels=len(plan.channels),
        labels=len(plan.labels),
        text_width=plan.text.width,
        diffusion=plan.diffusion is not None,
        paper=plan.paper is not None,
        plan=plan.network,
    )


def convolutions(net: Network) -> tuple[Convolution, ...]:
    """All convolutions, in the order image encoder, label encoder, denoiser and label decoder."""
    encoder = _image_encoder(net)
    return (*encoder, *(_label_encoder(net) if net.diffusion else ()), *_denoiser(net), *_label_decoder(net))


def _residual(
    stage: int, width: int, kernel: Triple, count: int = 1, passes: float = 1.0, kept: float = 1.0
) -> list[Convolution]:
    return [Convolution(stage, prod(kernel), width, width, passes, kept)] * (2 * count)


def _image_encoder(net: Network) -> list[Convolution]:
    width_in, layers = net.image_channels, []
    for index, stage in enumerate(net.stages[: net.level + 1]):
        layers += [Convolution(index, prod(stage.kernel), width_in, stage.width)]
        layers += _residual(index, stage.width, stage.kernel, stage.blocks)
        width_in = stage.width
    return layers


def _label_encoder(net: Network) -> list[Convolution]:
    width_in = 1 if net.paper else net.plan.paint_width
    # z_0 itself is computed without gradients
    passes, kept = (1.0, 1.0) if net.paper else (1 + RECONSTRUCTED, RECONSTRUCTED)
    layers = [Convolution(0, 1, 0, width_in, passes, kept, plain=True)]
    for index, stage in enumerate(net.stages[1 : net.level + 1], start=1):
        width = net.plan.label_width(stage.width)
        layers += [Convolution(index, 27, width_in, width, passes, kept)]
        layers += _residual(index, width, stage.kernel, passes=passes, kept=kept)
        width_in = width
    return [*layers, Convolution(net.level, 1, width_in, net.latent_channels, passes, kept, plain=True)]


def _denoiser(net: Network) -> list[Convolution]:
    passes = net.denoisings
    first, entry = net.stages[net.level], net.latent_channels + net.condition
    layers = [Convolution(net.level, prod(first.kernel), entry, first.width, passes)]
    for index, stage in enumerate(net.stages[net.level :], start=net.level):
        layers += _residual(index, stage.width, stage.kernel, stage.blocks, passes)
    for index, (fine, coarse) in enumerate(pairwise(net.stages[net.level :]), start=net.level):
        layers += [Convolution(index + 1, prod(coarse.kernel), fine.width, coarse.width, passes)]
        # transposed; see `parameters`
        layers += [Convolution(index, 1, coarse.width, fine.width, passes, plain=True)]
        layers += _residual(index, fine.width, fine.kernel, passes=passes)
    return [*layers, Convolution(net.level, 1, first.width, net.latent_channels, passes, plain=True)]


def _label_decoder(net: Network) -> list[Convolution]:
    passes = kept = net.decodings
    last = net.stages[net.level]
    layers = [Convolution(net.level, prod(last.kernel), net.latent_channels, last.width, passes, kept, plain=True)]
    layers += _residual(net.level, last.width, last.kernel, passes=passes, kept=kept)
    for index, (fine, coarse) in enumerate(pairwise(net.stages[: net.level + 1])):
        # transposed; see `parameters`
        layers += [Convolution(index, 1, coarse.width, fine.width, passes, kept, plain=True)]
        layers += _residual(index, fine.width, fine.kernel, passes=passes, kept=kept)
    return layers


def parameters(net: Network) -> int:
    """The number of weights of the model, without the text encoder."""
    total = sum(layer.weights for layer in convolutions(net))
    for fine, coarse in pairwise(net.stages):  # a transposed kernel has prod(stride) values; 1 is counted above
        total += (prod(coarse.stride) - 1) * fine.width * coarse.width
    denoiser = net.stages[net.level :]
    time_width = net.plan.time_factor * denoiser[0].width
    timed_blocks = sum(stage.width * (stage.blocks + 1) for stage in denoiser) - denoiser[-1].width
    total += 2 * time_width**2 + 2 * (time_width + 1) * timed_blocks
    total += sum(4 * stage.width**2 * net.attentions(index) for index, stage in enumerate(net.stages))
    total += 2 * denoiser[0].width * (denoiser[0].width + net.text_width)  # fusion
    if net.paper:
        return total + net.stages[0].width * (1 + net.labels) + denoiser[0].width * net.latent_channels
    embedded = net.plan.paint_width if net.diffusion else 0
    return total + net.text_width * (net.stages[0].width + 1 + embedded)


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
    total += net.decodings * grids[0] * net.stages[0].width * (1 + net.labels)
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
    logits = net.decodings * grids[0] * (1 + net.labels) * BYTES_PER_LOGIT
    inputs = grids[0] * (4 * net.image_channels + 16)
    per_sample = MARGIN * (activations + gradients + logits + inputs)
    return FIXED_BYTES[device] + BYTES_PER_WEIGHT * parameters(net) + batch * per_sample


def prediction_bytes(net: Network, patch: Triple, device: Device) -> float:
    """The peak memory of predicting one window, in bytes: weights, skips, the widest stage, probabilities."""
    grids = [grid(net, patch, stage) for stage in range(len(net.stages))]
    skips = sum(grids[index] * stage.width for index, stage in enumerate(net.stages))
    values = skips + 4 * grids[0] * net.stages[0].width + 2 * grids[0] * (1 + net.labels)
    return FIXED_BYTES[device] + 4 * parameters(net) + 4 * values + 4 * grids[0] * net.image_channels


def ram_bytes(channels: int, labels: int, shape: Triple, original_shape: Triple) -> float:
    """The host memory of predicting one case, in bytes.

    On the plan's grid: image, sums of probabilities and of weights. On the file's grid: maximum, label, one class.
    """
    return 4.0 * prod(shape) * (channels + labels + 3) + prod(original_shape) * (4 * channels + 4 + 2 + 8)


def disk_bytes(channels: int, shapes: tuple[Triple, ...], original_shapes: tuple[Triple, ...]) -> float:
    """The disk space of stored cases, in bytes. Compression leaves two thirds of an image, a few per cent of labels."""
    images = sum(2 * channels * prod(shape) for shape in shapes) * 0.67
    return images + 0.1 * sum(prod(shape) for shape in (*shapes, *original_shapes)) + 50_000 * len(shapes)
