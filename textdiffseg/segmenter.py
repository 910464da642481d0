"""`Segmenter`: a network with its noise schedule. It computes the logits of an image.

    z_i, skips = f_img(x)                encode
    z_it       = fusion(z_i, E)          fuse
    h, m       = F(z_it)                 estimate: features, another skip, and the latent of the mask
    r          = DDIM(R, r_T | m, z_it)  sample: what the image leaves open, for each diffusion sample
    logits     = g(m + s r, skips)       decode; the mask is g(m, skips)

The image is encoded, fused and estimated once; each diffusion sample repeats the last two steps. Preset `unet` has
only the mask. The publication's preset samples the latent itself: z_0 = DDIM(f, z_T | z_it). A peer is a single
network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from plans.plan import Plan
from textdiffseg.diffusion.ddim import sample
from textdiffseg.diffusion.schedule import Schedule, schedule_of
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.networks.peers import Peer
from textdiffseg.queries import Queries


@dataclass(frozen=True)
class Conditioned:
    """An image that is encoded: everything before the diffusion."""

    z_it: Tensor  # (B, c, d, h, w)
    skips: tuple[Tensor, ...]  # from the finest to the latent grid; in the publication's presets they are not read
    mask_latent: Tensor | None  # m (B, k, d, h, w), of preset `default`


@dataclass(frozen=True)
class Segmenter:
    """A network with its noise schedule."""

    network: SegmentationNetwork
    schedule: Schedule | None  # None: no diffusion

    @classmethod
    def of(cls, network: SegmentationNetwork, device: torch.device | str = "cpu") -> "Segmenter":
        """The network, whose weights are on `device`, with the schedule of its plan."""
        return cls(network, schedule_of(network.plan, device))

    @property
    def plan(self) -> Plan:
        """The network's plan."""
        return self.network.plan

    def logits(self, image: Tensor, queries: Queries, noise: Tensor | None = None, steps: int = 0) -> Iterator[Tensor]:
        """Logits (B, 1 + Q, D, H, W) of each diffusion sample, or those of the mask.

        Args:
            image: (B, C, D, H, W).
            queries: of the same batch.
            noise: (S, B, k, d, h, w), the initial noise of each sample; not read without steps.
            steps: of DDIM; 0: the mask.

        Raises:
            ValueError: steps without `noise` or without diffusion.
        """
        if isinstance(self.network, Peer):
            yield self.network.segment(image, queries)
            return
        conditioned = condition(self.network, image, queries)
        for z_0 in self._latents(self.network, conditioned, noise, steps):
            yield self.network.decode(z_0, conditioned.skips, queries)

    def _latents(
        self, network: TextDiffSeg, conditioned: Conditioned, noise: Tensor | None, steps: int
    ) -> Iterator[Tensor | None]:
        """The latents to decode (B, k, d, h, w); None in preset `unet`."""
        m, z_it = conditioned.mask_latent, conditioned.z_it
        if network.estimator is not None and steps == 0:
            yield m
            return
        if self.schedule is None or noise is None or steps == 0:
            raise ValueError(f"preset {self.plan.preset}: sampling needs diffusion, noise and steps")
        for first in noise:
            if m is None:
                yield sample(partial(network.denoise, conditions=(z_it,)), first, self.schedule, steps)
            else:
                r = sample(partial(network.denoise, conditions=(m, z_it)), first, self.schedule, steps)
                yield m + network.residual_scale.view(1, -1, 1, 1, 1) * r


def condition(network: TextDiffSeg, image: Tensor, queries: Queries) -> Conditioned:
    """Encode, fuse and estimate: image (B, C, D, H, W)."""
    z_i, skips = network.encode_image(image)
    z_it = network.fuse(z_i, queries)
    if network.estimator is None:
        return Conditioned(z_it, skips, None)
    features, m = network.estimate(z_it)
    return Conditioned(z_it, (*skips, features), m)
