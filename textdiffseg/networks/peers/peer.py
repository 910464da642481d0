"""`Peer`: a network for comparison, with one output channel per label."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.plan import Plan
from textdiffseg.networks.label_decoder import queried_channels
from textdiffseg.queries import Queries


class Peer(nn.Module):
    """A network with one output channel for background and for each label. The queries only select channels.

    Args:
        plan: of the network.
        network: image (B, C, D, H, W) -> logits (B, 1 + N, D, H, W).
        size: the size (D, H, W) that the network accepts, at least the plan's patch. None: it accepts the patch.
    """

    def __init__(self, plan: Plan, network: nn.Module, size: Triple | None = None):
        super().__init__()
        self.plan = plan
        self.network = network
        self.size = size or plan.patch

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling (as in `TextDiffSeg`)."""
        return (self.network,)

    def logits(self, image: Tensor, queries: Queries) -> Tensor:
        """image (B, C, D, H, W) -> logits (B, 1 + Q, D, H, W) float32."""
        return queried_channels(self.cropped(self.network(self.padded(image))), queries)

    def padded(self, patch: Tensor) -> Tensor:
        """patch (B, C, D, H, W), with zeros at its ends up to the size that the network accepts."""
        return padded_to(patch, self.size)

    def cropped(self, padded: Tensor) -> Tensor:
        """The part (B, C, D, H, W) of `padded` that belongs to the plan's patch."""
        depth, height, width = self.plan.patch
        return padded[:, :, :depth, :height, :width]


def padded_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, d, h, w), with zeros at its ends up to the size (D, H, W)."""
    pairs = reversed(list(zip(x.shape[2:], size, strict=True)))  # F.pad takes the last axis first
    extra = [zeros for edge, full in pairs for zeros in (0, full - edge)]
    return F.pad(x, extra) if any(extra) else x


def two_positions(patch: Triple, stride: Triple) -> Triple:
    """The patch, with axis W made longer if `stride` would leave a single position of it.

    Normalisation needs two positions. `stride` is the network's total stride.
    """
    depth, height, width = patch
    single = all(edge <= step for edge, step in zip(patch, stride, strict=True))
    return (depth, height, stride[2] + 1) if single else (depth, height, width)
