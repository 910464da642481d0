"""A stochastic segmentation network (Monteiro et al. 2020), as a control of raters.py. It is not part of the product.

The logits of a patch are a low-rank multivariate normal:

    eta ~ N(mu, P P^T + diag(d)),    P of rank 10

mu is the output of the network of preset `unet`. P and d are two 1 x 1 x 1 convolutions of the same features. The loss
is the negative logarithm of the likelihood, estimated with M samples:

    -log 1/M sum_m exp(sum_v log softmax(eta_m)_v[y_v])

`installed` replaces the network and the objective of preset `unet` in this process. So the project's own loop trains
it, with the same batches, time limit, averaging and checkpoints.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from plans.plan import Plan
from textdiffseg.folds import weights
from textdiffseg.networks.model import TextDiffSeg, build_model
from textdiffseg.precision import float32_products
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.training import checkpoint, setup
from textdiffseg.training.objectives import Losses, Objective

RANK, LIKELIHOOD_SAMPLES = 10, 10
MIN_VARIANCE = 1e-5


class StochasticClassifier(nn.Module):
    """A classifier whose logits are random. Without `drawn`, it returns their mean."""

    def __init__(self, classifier: nn.Module, width: int, labels: int):
        super().__init__()
        self.classifier, self.labels = classifier, labels
        self.factor = nn.Conv3d(width, RANK * (1 + labels), 1)
        self.log_variance = nn.Conv3d(width, 1 + labels, 1)
        self.distribution: LowRankMultivariateNormal | None = None  # of the last batch in training
        self.drawn: int | None = None  # the number of the sample that is returned

    def forward(self, g: Tensor, queries: Queries) -> Tensor:
        """g (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W)."""
        mean = self.classifier(g, queries)
        channel = F.pad(queries.labels, (1, 0))
        rows = torch.arange(len(g), device=g.device)[:, None]
        real = F.pad(queries.mask, (1, 0), value=True)[..., None, None, None]  # padded slots do not vary
        factor = self.factor(g).float().unflatten(1, (1 + self.labels, RANK))[rows, channel] * real[:, :, None]
        variance = self.log_variance(g).float()[rows, channel].exp() * real + MIN_VARIANCE
        if self.drawn is None:
            if torch.is_grad_enabled():
                flat = factor.movedim(2, -1).flatten(1, -2)  # (B, events, rank)
                shape = (mean.float().flatten(1), flat, variance.flatten(1))
                with float32_products(g.device):  # in bfloat16 its matrix is not positive definite
                    self.distribution = LowRankMultivariateNormal(*shape, validate_args=False)
            return mean
        generator = torch.Generator().manual_seed(self.drawn)  # the coefficients are the same in all windows
        common = torch.randn(RANK, generator=generator).to(g.device)
        single = torch.randn(variance.shape, generator=generator).to(g.device)
        return mean + torch.einsum("bqrdhw,r->bqdhw", factor, common) + variance.sqrt() * single


@dataclass(frozen=True)
class StochasticObjective(Objective):
    """The negative logarithm of the likelihood, per voxel."""

    segmenter: Segmenter

    def losses(self, image: Tensor, targets: Tensor, queries: Queries, draws: object, done: float = 1.0) -> Losses:
        mean = next(self.segmenter.logits(image, queries))
        classifier = classifier_of(self.segmenter.network)
        distribution, classifier.distribution = classifier.distribution, None  # a kept graph cannot be copied
        assert distribution is not None, "expected a forward pass with gradients"
        with float32_products(mean.device):
            samples = distribution.rsample((LIKELIHOOD_SAMPLES,)).view(LIKELIHOOD_SAMPLES, *mean.shape)
        known = targets >= 0
        index = targets.clamp(min=0)[None, :, None].expand(LIKELIHOOD_SAMPLES, -1, -1, -1, -1, -1)
        log_p = (samples.log_softmax(2).gather(2, index).squeeze(2) * known).flatten(2).sum(2)  # (M, B)
        likelihood = log_p.logsumexp(0) - math.log(LIKELIHOOD_SAMPLES)
        return Losses(-(likelihood / known.flatten(1).sum(1).clamp(min=1)).mean())


def stochastic(plan: Plan) -> TextDiffSeg:
    """The untrained network of preset `unet` with random logits."""
    network = build_model(plan)
    decoder = network.label_decoder
    decoder.classifier = StochasticClassifier(decoder.classifier, plan.stages[0].width, len(plan.labels))
    return network


def classifier_of(network: TextDiffSeg) -> StochasticClassifier:
    """The classifier with random logits of a network."""
    return network.label_decoder.classifier


def _objective_of(network: TextDiffSeg, samples: bool = False) -> Objective:
    return StochasticObjective(readout_of(network.plan), Segmenter.of(network))


@contextmanager
def installed() -> Iterator[None]:
    """Train and load this network in place of the preset's, inside the context."""
    with (
        mock.patch.object(setup, "build_model", stochastic),
        mock.patch.object(weights, "build_model", stochastic),
        mock.patch.object(checkpoint, "objective_of", _objective_of),
    ):
        yield
