"""The label map to its latent z_0, and a latent back to per-label logits, both by way of the labels' words.

The encoder sees a map *painted with words*: each voxel carries a projection of its label's vector e_q, so its input
is as wide for two labels as for two hundred. In the decoder text is the classifier: logits_q = <g, H e_q> + b(e_q).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.plan import NetworkPlan, Stage
from plans.regions import Regions
from textdiffseg.networks.blocks import ConvBlock, ResidualBlock, TextProjection, convolution
from textdiffseg.queries import Queries
from textdiffseg.regions import members

PADDED_LOGIT = -1e4
MIN_VARIANCE = 1e-6  # of a position's channels
BACKGROUND_BIAS = 3.0  # at the start nearly every voxel is background, as in the data; saves some 30 iterations


def normalise_channels(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the k channels of each latent position, in float32, without affine parameters.

    Independent of patch, batch and rank: a patch of pure background is coded as safely as a lesion.
    """
    z = z.float()
    z = z - z.mean(dim=1, keepdim=True)
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + MIN_VARIANCE)


class EncoderPath(nn.Sequential):
    """From the image's grid (stages[0]) to the latent grid (stages[-1])."""

    def __init__(self, width_in: int, stages: tuple[Stage, ...], network: NetworkPlan):
        coarse = stages[1:]
        widths = (width_in, *(network.label_width(stage.width) for stage in coarse))
        super().__init__(
            *(
                nn.Sequential(ConvBlock(before, width, (3, 3, 3), stage.stride), ResidualBlock(width, stage.kernel))
                for before, width, stage in zip(widths, widths[1:], coarse, strict=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width_in, D, H, W) -> (B, c, d, h, w). Written out, as torch.compile passes over torch's own."""
        for stage in self:
            x = stage(x)
        return x


class LabelEncoder(nn.Module):
    """Painted label map -> z_0 (B, k, d, h, w), along the strides of the image encoder, but narrower.

    With `parts` labels overlap: of each, the numbers in label maps that it is made of.
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
        """slots (B, D, H, W) int64: 0 background, q + 1 the label of slot q; ignored voxels count as background.

        Where labels overlap, they are the numbers of the label map.
        """
        paint = self.paint(queries.vectors)  # (B, Q, p)
        background = self.background.expand(len(paint), 1, -1).to(paint.dtype)
        if self.parts is None:
            paint = torch.cat((background, paint), dim=1)
        else:
            paint = _summed(paint, background, members(queries, self.parts))
        return self.normalise(self.out(self.stages(painted(slots, paint))))


def painted(slots: Tensor, paint: Tensor) -> Tensor:
    """slots (B, D, H, W) int64, below 0 as 0, and the paint of each (B, 1 + Q, p) -> (B, p, D, H, W).

    A product with indicators: three times faster on a CPU than an embedding, whose gradient moreover adds up the
    voxels of a label one by one in the paint's own precision.
    """
    numbers = torch.arange(paint.shape[1], device=slots.device).view(1, -1, 1)
    indicators = (slots.clamp(min=0).flatten(1).unsqueeze(1) == numbers).to(paint.dtype)
    return torch.bmm(paint.transpose(1, 2), indicators).unflatten(2, slots.shape[1:])


def _summed(paint: Tensor, background: Tensor, belongs: Tensor) -> Tensor:
    """The paint of each number (B, 1 + E, p): the sum over the labels (B, Q, p) that it lies in, else background."""
    total = torch.einsum("bqe,bqp->bep", belongs.to(paint.dtype), paint)
    return torch.where(belongs.any(1).unsqueeze(2), total, background)


def label_numbers(slots: Tensor, queries: Queries, labels: int) -> Tensor:
    """slots (B, D, H, W) -> the publication's map without words: l / N (B, 1, D, H, W) of label l = 1..N."""
    table = F.pad(queries.labels, (1, 0))
    numbers = table.gather(1, slots.clamp(min=0).flatten(1)).view_as(slots)
    return numbers.unsqueeze(1).float() / labels


class NumberEncoder(nn.Module):
    """The publication's label encoder: label numbers -> z_0 (B, 1, d, h, w) of mean 0 and variance 1 over the patch."""

    def __init__(self, stages: tuple[Stage, ...], labels: int, network: NetworkPlan):
        super().__init__()
        self.labels = labels
        self.stages = EncoderPath(1, stages, network)
        width = network.label_width(stages[-1].width)
        self.out = nn.Conv3d(width, 1, 1, bias=False)  # standardising would take a bias out again

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64: 0 background, q + 1 the label of slot q; ignored voxels count as background."""
        z = self.out(self.stages(label_numbers(slots, queries, self.labels))).float()
        return F.layer_norm(z, z.shape[1:])


class NumberReduction(nn.Module):
    """Its zeta 3: the mean of the label numbers over each latent position, standardised; nothing is learned."""

    def __init__(self, stride: Triple, labels: int):
        super().__init__()
        self.stride, self.labels = stride, labels

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, 1, d, h, w) float32."""
        z = F.avg_pool3d(label_numbers(slots, queries, self.labels), self.stride)
        return F.layer_norm(z, z.shape[1:])


class LabelDecoder(nn.Module):
    """z_0 and the image's skips -> logits of background and of each label asked for.

    With `labels`, a channel for each of so many labels is the classifier instead of their words.
    """

    def __init__(self, stages: tuple[Stage, ...], text_width: int, latent_channels: int, labels: int | None = None):
        super().__init__()
        fine = stages[-2::-1]  # from the stage above the latent grid up to the image's own grid
        self.enter = nn.Sequential(
            convolution(latent_channels, stages[-1].width, stages[-1].kernel),
            ResidualBlock(stages[-1].width, stages[-1].kernel),
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse.width, stage.width, coarse.stride, coarse.stride)
            for coarse, stage in zip(stages[:0:-1], fine, strict=True)
        )
        self.blocks = nn.ModuleList(ResidualBlock(stage.width, stage.kernel) for stage in fine)
        width = stages[0].width
        self.classifier = TextClassifier(width, text_width) if labels is None else ChannelClassifier(width, labels)

    def forward(self, z_0: Tensor, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w), skips finest first or None for none -> logits (B, 1 + Q, D, H, W) float32."""
        h = self.enter(z_0)
        for level, (up, block) in enumerate(zip(self.up, self.blocks, strict=True), start=1):
            h = up(h)
            h = block(h if skips is None else h + skips[-level])
        return self.classifier(h, queries)


class TextClassifier(nn.Module):
    """logits_q = <g, H e_q> + b(e_q); background has a learned vector of its own."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.head = TextProjection(text_width, width + 1)  # H and b
        self.background = nn.Parameter(torch.cat((torch.randn(width), torch.tensor([BACKGROUND_BIAS]))))

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) float32; padded slots get PADDED_LOGIT."""
        head = self.head(queries.vectors)
        silent = F.pad(torch.zeros_like(head[:1, :1, :-1]), (0, 1), value=PADDED_LOGIT)
        head = torch.where(queries.mask.unsqueeze(2), head, silent)
        head = torch.cat((self.background.expand(len(head), 1, -1).to(head.dtype), head), dim=1)  # (B, 1 + Q, c + 1)
        weight, bias = head[..., :-1].to(g.dtype), head[..., -1:].float()
        return (torch.bmm(weight, g.flatten(2)).float() + bias).unflatten(2, g.shape[2:])


class ChannelClassifier(nn.Module):
    """A plain convolutional head: one channel for background and one for each label 1..N."""

    def __init__(self, width: int, labels: int):
        super().__init__()
        head = nn.Conv3d(width, 1 + labels, 1)
        self.weight, self.bias = head.weight, head.bias  # checkpoints name them without `head`

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) float32."""
        return asked_channels(F.conv3d(g, self.weight, self.bias), queries)


def asked_channels(logits: Tensor, queries: Queries) -> Tensor:
    """Logits of every label (B, 1 + N, D, H, W) -> of those asked for (B, 1 + Q, D, H, W) float32.

    Padded slots get PADDED_LOGIT.
    """
    channel = F.pad(queries.labels, (1, 0))
    asked = logits.float()[torch.arange(len(logits), device=logits.device)[:, None], channel]
    padded = F.pad(~queries.mask, (1, 0))[..., None, None, None]
    return asked.masked_fill(padded, PADDED_LOGIT)
