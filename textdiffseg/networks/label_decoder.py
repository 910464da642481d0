"""The label decoder, from features to logits. The text vectors are its classifier.

With g the decoder's features at a voxel:

    logits_q = <g, H e_q> + b(e_q)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.network_plan import Stage
from textdiffseg.networks.blocks import ConvBlock, InstanceNorm, ResidualBlock, TextProjection
from textdiffseg.queries import Queries

PADDED_LOGIT = -1e4
# At the start nearly every voxel is background, as in the data: its bias is large, and the features change little.
BACKGROUND_BIAS, LABEL_SCALE = 3.0, 0.3


class LabelDecoder(nn.Module):
    """Logits of background and of each queried label. It decodes skips, a latent, or both.

    - Masks: skips alone, without `latent_channels`.
    - Samples of preset `default`: a latent, and as skips the features of the masks' decoder.
    - The publication's presets: a latent alone.

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

    def logits(self, z_0: Tensor | None, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """The logits (B, 1 + Q, D, H, W) float32. The other arguments are those of `forward`."""
        return self.classifier(self(z_0, skips)[-1], queries)

    def forward(self, z_0: Tensor | None, skips: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """The features of all stages (B, width, ...), from the coarsest to the image's own grid.

        Either argument may be None: z_0 (B, k, d, h, w), or the skips, from the finest to the latent grid.
        """
        assert z_0 is None or self.enter is not None, "this decoder reads no latent"
        h = None if z_0 is None or self.enter is None else self.enter(z_0)
        if skips is not None:
            h = skips[-1] if h is None else h + skips[-1]
        assert h is not None, "expected a latent or skips"
        features = [h]
        for level, (up, block) in enumerate(zip(self.up, self.blocks, strict=True), start=2):
            h = up(h)
            h = block(h if skips is None else h + skips[-level])
            features.append(h)
        return tuple(features)

    def copy_finest(self, other: "LabelDecoder") -> None:
        """Copy the weights of another decoder's finest stages and classifier."""
        for modules, sources in ((self.up, other.up), (self.blocks, other.blocks)):
            for module, source in zip(modules, sources[len(sources) - len(modules) :], strict=True):
                module.load_state_dict(source.state_dict())
        self.classifier.load_state_dict(other.classifier.state_dict())


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
        self.head.weight.data *= LABEL_SCALE
        self.background = nn.Parameter(torch.cat((torch.zeros(width), torch.tensor([BACKGROUND_BIAS]))))

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) float32; padded slots get PADDED_LOGIT."""
        head = self.head(queries.vectors)
        padding = F.pad(torch.zeros_like(head[:1, :1, :-1]), (0, 1), value=PADDED_LOGIT)
        head = torch.where(queries.mask.unsqueeze(2), head, padding)
        head = torch.cat((self.background.expand(len(head), 1, -1).to(head.dtype), head), dim=1)  # (B, 1 + Q, c + 1)
        weight, bias = head[..., :-1].to(g.dtype), head[..., -1:].float()
        return (torch.bmm(weight, g.flatten(2)).float() + bias).unflatten(2, g.shape[2:])

    def vectors(self, queries: Queries) -> Tensor:
        """H e_q (B, Q, c): the direction of each label in the features; 0 for padded slots."""
        return self.head(queries.vectors)[..., :-1] * queries.mask.unsqueeze(2)


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
