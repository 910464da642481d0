"""Memory and work of a plan, computed before any network is built.

Training keeps these tensors until their gradient is computed (`plans.planning.layers` counts them for each convolution;
a test compares the sums with what autograd saves):

    convolution, normalisation, activation in place     output of the convolution, activation
    residual block                                       the same twice, and the sum of the two paths
    the same with a time embedding                       also the normalised value that is scaled
    transposed convolution                               its sum with the skip
    first convolution of a latent U-Net                  also a copy of its input
    self-attention                                       two copies of its input; query, key, value; result; sum
    fusion                                               copy of its input; query; result
    loss, for each class                                 log-softmax, softmax, mask

The tensors have bfloat16 values on a GPU, as convolutions, normalisation (`networks.blocks`) and attention return
bfloat16 there. On a CPU they are counted with float32 values, as not every CPU has bfloat16. The loss is float32.
"""

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Literal

from plans.geometry import Triple
from plans.network_plan import OverviewPlan
from plans.plan import Plan
from plans.planning.layers import (
    Convolution,
    NetworkShape,
    convolutions,
    denoiser_layers,
    factor_layers,
    mask_layers,
)
from plans.planning.rules import grid_positions

GB = 1e9
TOKENS_PER_LABEL = 8  # text tokens that fusion reads per queried label
NOISY_LATENTS = 2  # of each sample in the second stage of preset `default`; the mask is computed once for all of them
FACTOR_DRAWS = 10  # of the factors of each sample in that stage
MAX_LIKELIHOOD_VOXELS = 1 << 15  # of a patch, in the likelihood of these draws
# float32 weight, gradient, moving average and Muon's moment, and autocast's bfloat16 copy. AdamW has one moment more.
# Muon's update needs two more copies, but the activations are freed by then.
BYTES_PER_WEIGHT = {"muon": 18, "adamw": 22}
BYTES_PER_FROZEN_WEIGHT = 8  # float32 weight and moving average, of the part that learns in the other stage
BYTES_PER_VALUE = {"gpu": 2, "cpu": 4}  # of an activation: bfloat16, float32
KEPT_BY_SELF_ATTENTION, KEPT_BY_FUSION = 7, 3  # tensors of the size of the attention's input
# For fragmentation, workspaces of convolutions, and tensors that live only for a moment. The tensors that autograd
# keeps are exact, but the peak of a GPU was not measured yet. Until then its activations get 30% more.
MARGIN = {"gpu": 1.3, "cpu": 1.15}
BYTES_PER_CLASS = 24  # the most that the loss takes: also logits, products of the Dice, and gradients
GRADIENTS = 3  # of a tensor on the image's grid, alive at the same time
BYTES_PER_LATENT_VALUE = 48  # float32: z_0, m, s, r_0, r_t, v, the noise; some for each noisy latent
BYTES_PER_TARGET = 24  # label map, targets and their masks
FIXED_BYTES = {"gpu": 0.6 * GB, "cpu": 0.3 * GB}  # CUDA context and libraries; torch itself

Device = Literal["gpu", "cpu"]


def network_of(plan: Plan) -> NetworkShape:
    """The description of a plan's network."""
    return NetworkShape(
        stages=plan.stages,
        fusion_level=plan.fusion_level,
        latent_level=plan.latent.level,
        latent_channels=plan.latent.channels,
        image_channels=len(plan.channels),
        labels=len(plan.labels),
        text_width=plan.text.width,
        diffusion=plan.diffusion is not None or plan.paper is not None,
        paper=plan.paper is not None,
        settings=plan.network,
        overview=plan.overview,
        n_factors=plan.n_factors,
    )


def parameters(net: NetworkShape) -> int:
    """The number of weights of the model, without the text encoder."""
    total = sum(layer.weights for layer in convolutions(net))
    unets = (() if net.paper else (net.coarse,)) + ((net.denoiser_stages,) if net.diffusion else ())
    unets += (net.denoiser_stages,) if net.samples and net.n_factors else ()
    for stages in (net.stages[: net.fusion_level + 1], *unets):
        for fine, coarse in pairwise(stages):  # a transposed kernel has prod(stride) values; 1 is counted above
            total += (prod(coarse.stride) - 1) * fine.width * coarse.width
    if net.diffusion:
        total += _of_time(net)
    for stages in unets:
        attending = [*stages, *stages[:-1]]  # both paths
        total += sum(4 * stage.width**2 for stage in attending if stage.attention)
    if net.paper:
        total += sum(4 * stage.width**2 for stage in net.stages[: net.fusion_level + 1] if stage.attention)
    total += 2 * net.coarse[0].width * (net.coarse[0].width + net.text_width)  # fusion
    if net.overview:
        total += _of_overview(net.overview, net.image_channels, net.text_width)
    if net.paper:
        return total + net.stages[0].width * (1 + net.labels) + net.coarse[0].width * net.latent_channels
    return total + net.text_width * (net.stages[0].width + 1)  # classifier


def _of_overview(overview: OverviewPlan, channels: int, text_width: int) -> int:
    """The weights of the overview encoder: strided blocks, the perceptron of places, the tokens."""
    last = overview.widths[-1]
    blocks = sum(out * (27 * into + 3) for into, out in pairwise((channels, *overview.widths)))
    return blocks + last * (last + 5) + text_width * (2 * last + 3)


def _of_time(net: NetworkShape) -> int:
    """The weights of the time embedding and its projections in the denoiser's blocks."""
    stages = net.denoiser_stages
    time_width = net.settings.time_factor * stages[0].width
    timed = sum(stage.width * (stage.blocks + 1) for stage in stages) - stages[-1].width
    return 2 * time_width**2 + 2 * (time_width + 1) * timed


def macs(net: NetworkShape, patch: Triple) -> float:
    """The multiply-accumulates of one mask (preset `paper`: of one training sample), forward.

    Training has as many in its first part. The sampler, which learns alone afterwards, is not counted.
    """
    grids = _grids(net, patch)
    total = sum(grids[layer.stage] * layer.kernel * layer.width_in * layer.width_out for layer in mask_layers(net))
    total += grids[0] * net.stages[0].width * (1 + net.labels)
    for index, stage in enumerate(net.stages):
        once = grids[index] * stage.width * (4 * stage.width + 2 * grids[index])  # of one self-attention
        total += net.attentions(index) * once
    width, tokens = net.stages[net.fusion_level].width, TOKENS_PER_LABEL * (net.labels + 1)
    return total + grids[net.fusion_level] * width * (2 * width + 2 * tokens)


def training_bytes(net: NetworkShape, patch: Triple, batch: int, device: Device) -> float:
    """The peak memory of one training iteration, in bytes: of the masks' or the sampler's, whichever is larger."""
    kept = activations(net, patch, batch, device)
    return FIXED_BYTES[device] + weight_bytes(net) + MARGIN[device] * kept


def weight_bytes(net: NetworkShape) -> float:
    """The bytes of weights and optimiser while masks are trained. The sampler, which has fewer weights, needs less."""
    masks = parameters(replace(net, diffusion=False)) if net.samples else parameters(net)
    frozen = parameters(net) - masks
    return BYTES_PER_WEIGHT["adamw" if net.paper else "muon"] * masks + BYTES_PER_FROZEN_WEIGHT * frozen


def activations(net: NetworkShape, patch: Triple, batch: int, device: Device) -> float:
    """The bytes besides the weights of a training iteration, without a margin."""
    return max(mask_activations(net, patch, batch, device), sampler_activations(net, patch, batch, device))


def mask_activations(net: NetworkShape, patch: Triple, batch: int, device: Device) -> float:
    """The bytes besides the weights of an iteration that trains masks, without a margin."""
    grids, size = _grids(net, patch), BYTES_PER_VALUE[device]
    values = (
        _values(mask_layers(net), grids) + KEPT_BY_FUSION * grids[net.fusion_level] * net.stages[net.fusion_level].width
    )
    for index, stage in enumerate(net.stages):
        values += KEPT_BY_SELF_ATTENTION * net.attentions(index) * grids[index] * stage.width
    loss = grids[0] * max(BYTES_PER_CLASS * (1 + net.labels), GRADIENTS * size * net.stages[0].width)
    return batch * (size * values + loss + _input_bytes(net, grids[0]))


def sampler_activations(net: NetworkShape, patch: Triple, batch: int, device: Device) -> float:
    """The bytes besides the weights of an iteration that trains the sampler, without a margin; 0 without one.

    The denoiser reads `NOISY_LATENTS` latents of each patch, the factors' network one. The mask is computed without
    gradients. Its logits and its features on the latent grid stay, as do those of the draw that the denoiser learns on.
    """
    if not net.samples:
        return 0.0
    grids, size, latent = _grids(net, patch), BYTES_PER_VALUE[device], net.latent_level
    attention = sum(
        KEPT_BY_SELF_ATTENTION * net.sampler_attentions(index) * grids[index] * stage.width
        for index, stage in enumerate(net.denoiser_stages, start=latent)
    )
    denoiser = _values(denoiser_layers(net), grids) + attention
    features = (1 + NOISY_LATENTS) * grids[latent] * net.stages[latent].width
    latents = BYTES_PER_LATENT_VALUE * NOISY_LATENTS * grids[latent] * net.latent_channels
    stored = size * features + 4 * grids[0] * (1 + net.labels) + latents + _input_bytes(net, grids[0])
    if net.n_factors:
        stored += size * (_values(factor_layers(net), grids) + attention)
        voxels = likelihood_voxels(grids[latent])
        stored += 4 * grids[0] * (1 + net.labels) + _likelihood_bytes(net, voxels)
    return batch * (size * NOISY_LATENTS * denoiser + stored)


def likelihood_voxels(positions: int) -> int:
    """The voxels of a patch with so many latent positions that count in the likelihood of the factors' draws."""
    return min(positions, MAX_LIKELIHOOD_VOXELS)


def _likelihood_bytes(net: NetworkShape, voxels: int) -> float:
    """The bytes of the likelihood of a sample's draws of the factors: loadings, their products, logits, log-softmax."""
    loadings = net.n_factors * (net.latent_channels + net.labels)
    return 4.0 * voxels * (2 * loadings + 3 * FACTOR_DRAWS * (1 + net.labels))


def _grids(net: NetworkShape, patch: Triple) -> list[int]:
    """The number of positions of each stage's grid for one patch."""
    return [grid_positions(patch, net.stride_at(stage)) for stage in range(len(net.stages))]


def _values(layers: tuple[Convolution, ...], grids: list[int]) -> float:
    """The values that autograd keeps for one patch."""
    return sum(layer.values_kept * grids[layer.stage] for layer in layers)


def _input_bytes(net: NetworkShape, voxels: int) -> float:
    """The image, also as autocast's bfloat16 copy, and the targets."""
    return voxels * (6 * net.image_channels + BYTES_PER_TARGET)


def prediction_bytes(net: NetworkShape, patch: Triple, device: Device, windows: int = 1) -> float:
    """The peak memory of predicting `windows` at once, in bytes: weights, skips, the widest stage, probabilities."""
    grids = _grids(net, patch)
    skips = sum(grids[index] * stage.width for index, stage in enumerate(net.stages))
    values = skips + 4 * grids[0] * net.stages[0].width + 2 * grids[0] * (1 + net.labels)
    of_window = 4.0 * values + 4 * grids[0] * net.image_channels
    return FIXED_BYTES[device] + 4 * parameters(net) + windows * of_window
