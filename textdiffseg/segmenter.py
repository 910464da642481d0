"""`Segmenter`: a network with its noise schedule. It computes the logits of an image.

    z_i, skips = f_img(x)           encode
    z_it       = fusion(z_i, E)     fuse
    z_0_hat    = DDIM(f, z_T)       sample
    logits     = g(z_0_hat, skips)  decode

The image is encoded and fused once; each diffusion sample repeats the last two steps. Preset `unet` has no diffusion:
its denoiser runs once on a zero latent. A peer is a single network.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from plans.plan import Plan
from textdiffseg.diffusion.ddim import sample
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.networks.peers import Peer
from textdiffseg.queries import Queries

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, k, d, h, w), t (B,)) -> z_0_hat or eps_hat (B, k, d, h, w), with z_it of the image bound."""


@dataclass(frozen=True)
class Segmenter:
    """A network with its noise schedule."""

    network: SegmentationNetwork
    schedule: Schedule | None  # None: no diffusion

    @classmethod
    def of(cls, network: SegmentationNetwork, device: torch.device | str = "cpu") -> "Segmenter":
        """The network, whose weights are on `device`, with the schedule of its plan."""
        diffusion = network.plan.diffusion
        return cls(network, None if diffusion is None else Schedule.of(diffusion, device))

    @property
    def plan(self) -> Plan:
        """The network's plan."""
        return self.network.plan

    def logits(self, image: Tensor, queries: Queries, noise: Tensor | None = None, steps: int = 1) -> Iterator[Tensor]:
        """Logits (B, 1 + Q, D, H, W) of each diffusion sample; one without diffusion.

        Args:
            image: (B, C, D, H, W).
            queries: of the same batch.
            noise: (S, B, k, d, h, w), z_T of each sample; not read without diffusion.
            steps: of DDIM.

        Raises:
            ValueError: diffusion without `noise`.
        """
        if isinstance(self.network, Peer):
            yield self.network.segment(image, queries)
            return
        z_i, skips = self.network.encode_image(image)
        denoise = partial(self.network.denoise, z_it=self.network.fuse(z_i, queries))
        for z_0 in self._latents(denoise, z_i, noise, steps):
            yield self.network.decode(z_0, skips, queries)

    def estimate(self, image: Tensor, queries: Queries, noise: Tensor) -> Tensor:
        """Logits (B, 1 + Q, D, H, W) from noise (B, k, d, h, w), with the plan's DDIM steps; one if it has none."""
        diffusion = self.plan.diffusion
        steps = (diffusion.steps or 1) if diffusion else 1
        return next(self.logits(image, queries, noise[None], steps))

    def _latents(self, denoise: Denoise, z_i: Tensor, noise: Tensor | None, steps: int) -> Iterator[Tensor]:
        """The estimate of z_0 (B, k, d, h, w) for each diffusion sample."""
        if self.schedule is None:
            t = torch.full((len(z_i),), self.plan.network.unet_timesteps, device=z_i.device)
            yield denoise(z_i.new_zeros(len(z_i), self.plan.latent.channels, *z_i.shape[2:]), t)
            return
        if noise is None:
            raise ValueError("diffusion needs noise to start from")
        for z_T in noise:
            yield sample(denoise, z_T, self.schedule, steps)
