"""`Segmenter`: a network with its noise schedule. It computes the logits of an image.

    z_i, skips = f_img(x)              encode
    z_it       = fusion(z_i, E)        fuse
    h          = F(z_it)               estimate
    g_1, g     = decoder(skips, h)     decode: features on the latent grid and on the image's own
    p          = classifier(g, E)      classify: the mask

    m, s = posterior(p)                mean and scale of the label latent (networks/label_latent.py)

    w ~ N(0, I)                        common factors of a sample (networks/common_factors.py)
    p, m, s given w                    the mask that they choose, its mean and its scale
    r    = DDIM(R, r_T | m, g_1)       what they leave open
    mask = p weighed with m + tau s r  tau: `spread`; models older than 0.3 have no factors and a learned decoder

The first part is computed once, the last one for each diffusion sample. Preset `unet` has only the first part.
The publication's preset samples the latent itself: z_0 = DDIM(f, z_T | z_it). A peer is a single network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from plans.plan import Plan
from textdiffseg.diffusion.ddim import Known, sample
from textdiffseg.diffusion.schedule import Schedule, schedule_of
from textdiffseg.networks.common_factors import weighted
from textdiffseg.networks.label_latent import LatentPosterior
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.networks.peers import Peer
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of


@dataclass(frozen=True)
class MaskFeatures:
    """What the mask's single pass computes; samples start from it."""

    logits: Tensor  # (B, 1 + Q, D, H, W)
    skips: tuple[Tensor, ...]  # the image's, finer than the latent grid; then the decoder's features on that grid

    @property
    def on_latent_grid(self) -> Tensor:
        """The decoder's features (B, c, d, h, w) on the latent grid."""
        return self.skips[-1]


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

    def logits(
        self,
        image: Tensor,
        queries: Queries,
        noise: Tensor | None = None,
        steps: int = 0,
        factors: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Logits (B, 1 + Q, D, H, W) of each diffusion sample, or those of the mask.

        Args:
            image: (B, C, D, H, W).
            queries: of the same batch.
            noise: (S, B, k, d, h, w), the initial noise of each sample; not read without steps.
            steps: of DDIM; 0: the mask.
            factors: w (S, R) of each sample; None: 0.

        Raises:
            ValueError: steps without `noise` or without diffusion.
        """
        if isinstance(self.network, Peer) or (steps == 0 and not self.plan.paper):
            yield self.mask(image, queries)
            return
        if self.plan.paper:
            yield from self._from_noise(self.network, image, queries, noise, steps)
            return
        _, starts = self._starts(noise, steps)
        sampler = self.mask_sampler(image, queries)
        for number, r_T in enumerate(starts):
            version = sampler if factors is None else sampler.given(factors[number].expand(len(image), -1))
            r = version.sample(r_T, steps)
            yield version.decode(r)
            del version  # before the next one: with many labels it is most of a window's memory

    def mask(self, image: Tensor, queries: Queries) -> Tensor:
        """Logits (B, 1 + Q, D, H, W) of the masks of image (B, C, D, H, W), in one pass."""
        if isinstance(self.network, Peer):
            return self.network.logits(image, queries)
        return mask_features(self.network, image, queries).logits

    def mask_sampler(self, image: Tensor, queries: Queries) -> "MaskSampler":
        """The sampler of preset `default` for image (B, C, D, H, W), around its mask."""
        network, schedule = self.network, self.schedule
        assert isinstance(network, TextDiffSeg), "expected a network with a sampler"
        assert schedule is not None, "expected a model with diffusion"
        return MaskSampler.around(network, schedule, queries, mask_features(network, image, queries))

    def _from_noise(
        self, network: TextDiffSeg, image: Tensor, queries: Queries, noise: Tensor | None, steps: int
    ) -> Iterator[Tensor]:
        """The samples of the publication's presets."""
        z_i, _ = network.encode_image(image)
        denoise = partial(network.denoise, conditions=(network.fuse(z_i, queries),))
        schedule, starts = self._starts(noise, steps)
        for z_T in starts:
            yield network.decode_latent(sample(denoise, z_T, schedule, steps), queries)

    def _starts(self, noise: Tensor | None, steps: int) -> tuple[Schedule, Tensor]:
        """The schedule, and the initial noise (S, B, k, d, h, w) of the samples."""
        if self.schedule is None or noise is None or steps == 0:
            raise ValueError(f"preset {self.plan.preset}: sampling needs diffusion, noise and steps")
        return self.schedule, noise


@dataclass(frozen=True)
class MaskSampler:
    """The samples of preset `default`, around the masks of B patches (`Segmenter.mask_sampler`)."""

    network: TextDiffSeg
    schedule: Schedule
    queries: Queries
    features: MaskFeatures
    posterior: LatentPosterior  # m and s

    @classmethod
    def around(
        cls, network: TextDiffSeg, schedule: Schedule, queries: Queries, features: MaskFeatures
    ) -> "MaskSampler":
        """The sampler around the masks of `features`."""
        posterior = network.posterior(_label_probabilities(network, features), queries)
        return cls(network, schedule, queries, features, posterior)

    @cached_property
    def loadings(self) -> Tensor:
        """Those of the common factors (B, R, k, d, h, w)."""
        assert self.network.common_factors is not None, "expected a model with common factors"
        return self.network.common_factors(self.posterior, self.features.on_latent_grid)

    def given(self, factors: Tensor) -> "MaskSampler":
        """The sampler around the version of the masks that the factors w (B, R or more) choose.

        Factors beyond R are of other folds, and not read. A model without factors returns itself.
        """
        if self.network.common_factors is None:
            return self
        shift = weighted(factors[:, : self.loadings.shape[1]], self.loadings)
        logits = self.network.weigh(self.features.logits, shift, self.queries)
        return self.around(self.network, self.schedule, self.queries, MaskFeatures(logits, self.features.skips))

    @property
    def p(self) -> Tensor:
        """The mask's probabilities (B, Q, D, H, W). They are not kept: a window of 117 labels has 1 GB of them."""
        return _label_probabilities(self.network, self.features)

    def sample(self, r_T: Tensor, steps: int, known: Known | None = None) -> Tensor:
        """r (B, k, d, h, w) of a sample, from noise r_T of the same shape. `known`: the part of r that is given."""
        denoise = partial(self.network.denoise, conditions=(self.posterior.mean, self.features.on_latent_grid))
        return sample(denoise, r_T, self.schedule, steps, known)

    def decode(self, r: Tensor, spread: Tensor | None = None) -> Tensor:
        """The logits (B, 1 + Q, D, H, W) of a sample. `spread`: another tau than the network's."""
        return self.decode_latent(self.posterior.latent(r, self.network.spread if spread is None else spread))

    def decode_latent(self, z: Tensor) -> Tensor:
        """The logits (B, 1 + Q, D, H, W) of a latent z (B, k, d, h, w)."""
        features, mean = self.features, self.posterior.mean
        return self.network.decode_sample(z, mean, features.logits, features.skips, self.queries)


def _label_probabilities(network: TextDiffSeg, features: MaskFeatures) -> Tensor:
    """The probabilities (B, Q, D, H, W) of the labels, without background."""
    return readout_of(network.plan).probabilities(features.logits)[:, 1:]


def mask_features(network: TextDiffSeg, image: Tensor, queries: Queries) -> MaskFeatures:
    """The mask of image (B, C, D, H, W) in one pass."""
    z_i, skips = network.encode_image(image)
    features = network.decode((*skips, network.estimate(network.fuse(z_i, queries))))
    level = network.plan.latent.level
    return MaskFeatures(network.classify(features[-1], queries), (*skips[:level], features[-1 - level]))
