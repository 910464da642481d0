"""The whole model, its modules by the paper's names, and `build_model`, which assembles them from a plan."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from plans.network_plan import PaperPlan
from plans.plan import Plan
from textdiffseg.networks.common_factors import CommonFactors
from textdiffseg.networks.fusion import ConcatenatedFusion, Fusion, NoFusion, ProjectedFusion
from textdiffseg.networks.image_encoder import DownSampledImage, ImageEncoder
from textdiffseg.networks.label_decoder import LabelDecoder, TextClassifier
from textdiffseg.networks.label_encoder import LabelMapEncoder, LabelMapReduction
from textdiffseg.networks.label_latent import LabelLatent, LatentPosterior
from textdiffseg.networks.latent_unet import LatentUNet
from textdiffseg.networks.overview import OverviewEncoder
from textdiffseg.networks.peers import Peer, build_peer
from textdiffseg.queries import Queries


class TextDiffSeg(nn.Module):
    """The modules of the model. Each method runs one or two; `Segmenter` and the objectives combine the methods.

    Preset `unet` makes only masks. Preset `default` makes the same masks, and has a sampler. The publication's presets
    have no estimator: a label encoder, a denoiser and the label decoder make samples.
    """

    spread: Tensor  # (), a buffer: the factor of a sample's residual; 0 until the sampler is trained

    def __init__(
        self,
        plan: Plan,
        *,
        image_encoder: ImageEncoder | DownSampledImage,
        fusion: Fusion | ProjectedFusion | ConcatenatedFusion | NoFusion,
        label_decoder: LabelDecoder,
        estimator: LatentUNet | None = None,
        label_encoder: LabelMapEncoder | LabelMapReduction | None = None,
        denoiser: LatentUNet | None = None,
        label_latent: LabelLatent | None = None,
        sample_decoder: LabelDecoder | None = None,
        common_factors: CommonFactors | None = None,
        overview_encoder: OverviewEncoder | None = None,
    ):
        super().__init__()
        self.plan = plan
        self.image_encoder = image_encoder
        self.fusion = fusion
        self.estimator = estimator
        self.label_decoder = label_decoder
        self.label_encoder = label_encoder
        self.label_latent = label_latent
        self.denoiser = denoiser
        self.sample_decoder = sample_decoder
        self.common_factors = common_factors
        self.overview_encoder = overview_encoder
        if plan.diffusion is not None:
            self.register_buffer("spread", torch.zeros(()))

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling: those with convolutions.

        Modules that read tokens are left out, as the number of tokens changes between batches.
        """
        label_stages = getattr(self.label_encoder, "stages", None)
        decoders = self.label_decoder, self.sample_decoder
        modules = (self.image_encoder, label_stages, self.estimator, self.denoiser, *decoders)
        return tuple(module for module in modules if module is not None)

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips, finest first."""
        return self.image_encoder(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) and the queries' tokens -> z_it (B, c, d, h, w); (B, k, d, h, w) in preset `paper`.

        If the plan has an overview, the tokens of the scan are read beside those of the words.
        """
        if self.overview_encoder is not None:
            queries = self.overview_encoder.with_overview_tokens(queries)
        return self.fusion(z_i, queries)

    def estimate(self, z_it: Tensor) -> Tensor:
        """z_it (B, c, d, h, w) -> h, features of the same shape. Raises `ValueError` in preset `paper`."""
        return _present(self.estimator, "estimator", self.plan)([z_it])

    def decode(self, skips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The decoder's features (B, c, ...) of all stages, coarsest first. `skips`: those of the image, then h."""
        return self.label_decoder(None, skips)

    def classify(self, g: Tensor, queries: Queries) -> Tensor:
        """The decoder's last features (B, c, D, H, W) -> logits (B, 1 + Q, D, H, W) of the mask."""
        return self.label_decoder.classifier(g, queries)

    def encode_masks(self, masks: Tensor, queries: Queries) -> Tensor:
        """The true latent z_0 (B, k, d, h, w) of masks (B, Q, D, H, W)."""
        return _present(self.label_latent, "label latent", self.plan)(masks, self._vectors(queries))

    def posterior(self, p: Tensor, queries: Queries) -> LatentPosterior:
        """Mean and scale of z_0 from the probabilities p (B, Q, D, H, W) of the masks."""
        return _present(self.label_latent, "label latent", self.plan).posterior(p, self._vectors(queries))

    def denoise(self, noisy: Tensor, t: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The denoiser's output (B, k, d, h, w), for a noisy latent (B, k, d, h, w) at t (B,) from 0 to 1.

        `conditions`: m and the mask's features on the latent grid; in preset `paper` only z_it.
        """
        return _present(self.denoiser, "denoiser", self.plan)([noisy, *conditions], t)

    def decode_sample(
        self, z: Tensor, mean: Tensor, logits: Tensor, skips: tuple[Tensor, ...], queries: Queries
    ) -> Tensor:
        """A latent z (B, k, d, h, w) -> logits (B, 1 + Q, D, H, W) of the sample.

        Args:
            z: the latent.
            mean: m (B, k, d, h, w), that of the mask.
            logits: of the mask.
            skips: the image's skips that are finer than the latent grid, then the mask's features on that grid. Only
                a learned decoder reads them.
            queries: of the same batch.
        """
        if self.sample_decoder is not None:
            return self.sample_decoder.logits(z, skips, queries)
        return self.weigh(logits, z - mean, queries)

    def weigh(self, logits: Tensor, difference: Tensor, queries: Queries) -> Tensor:
        """The mask's logits (B, 1 + Q, D, H, W), weighed by Bayes' rule with a latent; `difference`: z - m."""
        latent = _present(self.label_latent, "label latent", self.plan)
        return latent.weigh(logits, difference, self._vectors(queries))

    def label_codes(self, queries: Queries) -> Tensor:
        """The vectors c_q (B, Q, k) of the labels in the latent."""
        return _present(self.label_latent, "label latent", self.plan).codes(self._vectors(queries))

    def encode_label_map(self, slots: Tensor, queries: Queries) -> Tensor:
        """Preset `paper`: slots (B, D, H, W) int64 (`Readout.targets`) -> z_0 (B, k, d, h, w)."""
        return _present(self.label_encoder, "label encoder", self.plan)(slots, queries)

    def decode_latent(self, z: Tensor, queries: Queries) -> Tensor:
        """Preset `paper`: a latent z (B, k, d, h, w) -> logits (B, 1 + Q, D, H, W)."""
        return self.label_decoder.logits(z, None, queries)

    def _vectors(self, queries: Queries) -> Tensor:
        classifier = self.label_decoder.classifier
        assert isinstance(classifier, TextClassifier), "expected a classifier of words"
        return classifier.vectors(queries)


SegmentationNetwork = TextDiffSeg | Peer


def can_sample(networks: Sequence[SegmentationNetwork]) -> bool:
    """Whether all networks have a trained sampler."""
    return all(
        isinstance(network, TextDiffSeg) and (network.plan.paper is not None or bool(network.spread > 0))
        for network in networks
        if network.plan.sample_steps is not None
    )


Module = TypeVar("Module")


def _present(module: Module | None, name: str, plan: Plan) -> Module:
    """The module; `ValueError` if the preset has none."""
    if module is None:
        raise ValueError(f"preset {plan.preset} has no {name}")
    return module


def build_model(plan: Plan) -> SegmentationNetwork:
    """The untrained model of a plan."""
    if plan.peer:
        return build_peer(plan, plan.peer)
    if plan.paper:
        return _build_paper(plan, plan.paper)
    level, text_width, network = plan.fusion_level, plan.text.width, plan.network
    fine, coarse = plan.stages[: level + 1], plan.stages[level:]
    width = fine[-1].width
    shared: dict[str, Any] = {
        "image_encoder": ImageEncoder(len(plan.channels), (*fine[:-1], fine[-1].model_copy(update={"blocks": 0}))),
        "fusion": Fusion(width, text_width, network.head_width),
        "estimator": LatentUNet(coarse, width, None, network, timed=False),
        "label_decoder": LabelDecoder(fine, text_width, None),
    }
    if plan.overview:
        shared["overview_encoder"] = OverviewEncoder(len(plan.channels), plan.overview, text_width)
    if plan.diffusion is None:
        return TextDiffSeg(plan, **shared)
    below, channels = plan.stages[plan.latent.level :], plan.latent.channels
    inputs = 2 * channels + below[0].width
    narrow, learned = list(map(network.denoiser_stage, below)), plan.diffusion.decoder == "learned"
    common = CommonFactors(narrow, below[0].width, channels, plan.n_factors, network) if plan.n_factors else None
    return TextDiffSeg(
        plan,
        **shared,
        label_latent=LabelLatent(plan.latent_stride, plan.stages[0].width, channels),
        denoiser=LatentUNet(narrow, inputs, channels, network, timed=True).start_at_zero(),
        sample_decoder=LabelDecoder(plan.stages[: plan.latent.level + 1], text_width, channels) if learned else None,
        common_factors=common,
    )


def _build_paper(plan: Plan, paper: PaperPlan) -> TextDiffSeg:
    """The publication's model, or one of its ablations."""
    level, channels, text_width, labels = plan.latent.level, plan.latent.channels, plan.text.width, len(plan.labels)
    fine, coarse, stride = plan.stages[: level + 1], plan.stages[level:], plan.latent_stride
    width = fine[-1].width
    image_encoder: ImageEncoder | DownSampledImage
    if paper.image_encoder == "learned":
        image_encoder = ImageEncoder(len(plan.channels), fine, plan.network.head_width)
    else:
        image_encoder = DownSampledImage(len(plan.channels), width, stride)
    fusion: ProjectedFusion | ConcatenatedFusion | NoFusion
    if paper.fusion == "attention":
        fusion = ProjectedFusion(width, text_width, channels, plan.network.head_width)
    elif paper.fusion == "concatenation":
        fusion = ConcatenatedFusion(width, text_width, channels)
    else:
        fusion = NoFusion(width, channels)
    learned = paper.label_encoder == "learned"
    return TextDiffSeg(
        plan,
        image_encoder=image_encoder,
        fusion=fusion,
        label_encoder=LabelMapEncoder(fine, labels, plan.network) if learned else LabelMapReduction(stride, labels),
        denoiser=LatentUNet(coarse, 2 * channels, channels, plan.network, timed=True),
        label_decoder=LabelDecoder(fine, text_width, channels, labels),
    )
