"""The label autoencoder: a label map to its latent z_0, and a latent back to logits. Both use the labels' text.

The encoder reads an *embedded label map*: each voxel holds a projection of the text vector e_q of its label. The
input's width does therefore not depend on the number of labels.

In the decoder the text vectors are the classifier, with g the decoder's features at a voxel:

    logits_q = <g, H e_q> + b(e_q)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.network_plan import NetworkPlan, Stage
from plans.regions import Regions
from textdiffseg.networks.blocks import ConvBlock, InstanceNorm, ResidualBlock, TextProjection
from textdiffseg.queries import Queries
from textdiffseg.regions import members

PADDED_LOGIT = -1e4
MIN_VARIANCE = 1e-6  # added to a position's variance over channels
BACKGROUND_BIAS = 3.0  # at the start nearly every voxel is background, as in the data; saves about 30 iterations


def normalise_channels(z: Tensor) -> Tensor:
    """z (B, k, ...) with mean 0 and variance 1 over the k channels of each latent position, float32.

    There are no affine parameters. The result at a position does not depend on the rest of the patch or batch. A patch
    without foreground is therefore no special case.
    """
    z = z.float()
    z = z - z.mean(dim=1, keepdim=True)
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + MIN_VARIANCE)


class EncoderPath(nn.Sequential):
    """A label encoder's convolutions, from the image's grid (stages[0]) to the latent grid (stages[-1])."""

    def __init__(self, width_in: int, stages: tuple[Stage, ...], network: NetworkPlan):
        coarse = stages[1:]
        widths = (width_in, *(network.label_width(stage.width) for stage in coarse))
        super().__init__(
            *(
                nn.Sequential(ConvBlock(width_in, width, (3, 3, 3), stage.stride), ResidualBlock(width, stage.kernel))
                for width_in, width, stage in zip(widths, widths[1:], coarse, strict=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width_in, D, H, W) -> (B, c, d, h, w).

        The loop is written out because torch.compile does not compile `nn.Sequential.forward`.
        """
        for stage in self:
            x = stage(x)
        return x


class LabelEncoder(nn.Module):
    """The latent z_0 of an embedded label map. It has the image encoder's strides and fewer channels.

    `parts` is given where labels overlap: for label 1..N, the value numbers that belong to it (`Plan.parts`).
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        text_width: int,
        latent_channels: int,
        network: NetworkPlan,
        parts: Regions | None = None,
    ):
        super().__init__()
        self.parts = parts
        self.paint = TextProjection(text_width, network.paint_width)
        self.background = nn.Parameter(torch.randn(network.paint_width))
        self.stages = EncoderPath(network.paint_width, stages, network)
        self.out = nn.Conv3d(network.label_width(stages[-1].width), latent_channels, 1)
        self.normalise = normalise_channels

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 (`Readout.targets`) -> z_0 (B, k, d, h, w) float32.

        0 is background and q + 1 the label of slot q; ignored voxels count as background. Where labels overlap,
        `slots` holds value numbers instead.
        """
        vectors = self.paint(queries.vectors)  # (B, Q, p)
        background = self.background.expand(len(vectors), 1, -1).to(vectors.dtype)
        if self.parts is None:
            vectors = torch.cat((background, vectors), dim=1)
        else:
            vectors = _value_vectors(vectors, background, members(queries, self.parts))
        return self.normalise(self.out(self.stages(embedded(slots, vectors))))


def embedded(slots: Tensor, vectors: Tensor) -> Tensor:
    """The vector of each voxel: slots (B, D, H, W) int64 and vectors (B, 1 + Q, p) -> (B, p, D, H, W).

    Negative slots count as 0. It is a matrix product with one-hot indicators, three times faster on a CPU than
    `F.embedding`. The gradient of `F.embedding` also adds up voxels one by one in the vectors' own precision.
    """
    classes = torch.arange(vectors.shape[1], device=slots.device).view(1, -1, 1)
    indicators = (slots.clamp(min=0).flatten(1).unsqueeze(1) == classes).to(vectors.dtype)
    return torch.bmm(vectors.transpose(1, 2), indicators).unflatten(2, slots.shape[1:])


def _value_vectors(vectors: Tensor, background: Tensor, membership: Tensor) -> Tensor:
    """The vector of each value number (B, 1 + E, p): the sum over its labels (B, Q, p); background without a label."""
    total = torch.einsum("bqe,bqp->bep", membership.to(vectors.dtype), vectors)
    return torch.where(membership.any(1).unsqueeze(2), total, background)


def scaled_label_map(slots: Tensor, queries: Queries, labels: int) -> Tensor:
    """slots (B, D, H, W) -> the publication's label map without text: l / N (B, 1, D, H, W) for label number l."""
    number_of_slot = F.pad(queries.labels, (1, 0))
    label_map = number_of_slot.gather(1, slots.clamp(min=0).flatten(1)).view_as(slots)
    return label_map.unsqueeze(1).float() / labels


class NumberEncoder(nn.Module):
    """The publication's label encoder. It reads label numbers; z_0 has mean 0 and variance 1 over the patch."""

    def __init__(self, stages: tuple[Stage, ...], labels: int, network: NetworkPlan):
        super().__init__()
        self.labels = labels
        self.stages = EncoderPath(1, stages, network)
        width = network.label_width(stages[-1].width)
        self.out = nn.Conv3d(width, 1, 1, bias=False)  # standardising would remove a bias

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, 1, d, h, w) float32. Ignored voxels count as background."""
        z = self.out(self.stages(scaled_label_map(slots, queries, self.labels))).float()
        return F.layer_norm(z, z.shape[1:])


class NumberReduction(nn.Module):
    """The publication's ablation zeta 3: the mean label number over each latent position, standardised.

    It has no learned parameters.
    """

    def __init__(self, stride: Triple, labels: int):
        super().__init__()
        self.stride, self.labels = stride, labels

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, 1, d, h, w) float32."""
        z = F.avg_pool3d(scaled_label_map(slots, queries, self.labels), self.stride)
        return F.layer_norm(z, z.shape[1:])


class LabelDecoder(nn.Module):
    """Logits of background and of each queried label, from z_0 and the skips.

    Without `latent_channels`, it reads no latent, only the skips (preset `unet`).

    With `labels`, the classifier is a convolution with one channel per label 1..`labels` instead of the text vectors.
    """

    def __init__(
        self, stages: tuple[Stage, ...], text_width: int, latent_channels: int | None, labels: int | None = None
    ):
        super().__init__()
        last, fine = stages[-1], stages[-2::-1]  # from the stage next to the latent grid up to the image's own grid
        self.enter = None if latent_channels is None else ConvBlock(latent_channels, last.width, last.kernel)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse.width, stage.width, coarse.stride, coarse.stride)
            for coarse, stage in zip(stages[:0:-1], fine, strict=True)
        )
        self.blocks = nn.ModuleList(up_block(stage) for stage in fine)
        width = stages[0].width
        self.classifier = TextClassifier(width, text_width) if labels is None else ChannelClassifier(width, labels)

    def forward(self, z_0: Tensor | None, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w), skips from the finest to the latent grid -> logits (B, 1 + Q, D, H, W) float32.

        Either may be None.
        """
        h = 0 if z_0 is None or self.enter is None else self.enter(z_0)
        h = h if skips is None else h + skips[-1]
        for level, (up, block) in enumerate(zip(self.up, self.blocks, strict=True), start=2):
            h = up(h)
            h = block(h if skips is None else h + skips[-level])
        return self.classifier(h, queries)


def up_block(stage: Stage) -> nn.Module:
    """The block of a stage on the way up. Without a convolution it only normalises and activates."""
    if stage.up == 0:
        return nn.Sequential(InstanceNorm(stage.width), nn.LeakyReLU(0.01, inplace=True))
    if stage.up == 1:
        return ConvBlock(stage.width, stage.width, stage.kernel)
    return ResidualBlock(stage.width, stage.kernel)


class TextClassifier(nn.Module):
    """logits_q = <g, H e_q> + b(e_q). Background has its own learned vector and bias."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.head = TextProjection(text_width, width + 1)  # H and b
        self.background = nn.Parameter(torch.cat((torch.randn(width), torch.tensor([BACKGROUND_BIAS]))))

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) float32; padded slots get PADDED_LOGIT."""
        head = self.head(queries.vectors)
        padding = F.pad(torch.zeros_like(head[:1, :1, :-1]), (0, 1), value=PADDED_LOGIT)
        head = torch.where(queries.mask.unsqueeze(2), head, padding)
        head = torch.cat((self.background.expand(len(head), 1, -1).to(head.dtype), head), dim=1)  # (B, 1 + Q, c + 1)
        weight, bias = head[..., :-1].to(g.dtype), head[..., -1:].float()
        return (torch.bmm(weight, g.flatten(2)).float() + bias).unflatten(2, g.shape[2:])


class ChannelClassifier(nn.Module):
    """A 1 x 1 x 1 convolution with one channel for background and one for each label 1..N."""

    def __init__(self, width: int, labels: int):
        super().__init__()
        head = nn.Conv3d(width, 1 + labels, 1)
        self.weight, self.bias = head.weight, head.bias  # checkpoints name them without `head`

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) float32."""
        return queried_channels(F.conv3d(g, self.weight, self.bias), queries)


def queried_channels(logits: Tensor, queries: Queries) -> Tensor:
    """Select the queried labels: logits (B, 1 + N, D, H, W) of all labels -> (B, 1 + Q, D, H, W) float32.

    Padded slots get PADDED_LOGIT.
    """
    channel = F.pad(queries.labels, (1, 0))
    selected = logits.float()[torch.arange(len(logits), device=logits.device)[:, None], channel]
    padded = F.pad(~queries.mask, (1, 0))[..., None, None, None]
    return selected.masked_fill(padded, PADDED_LOGIT)
