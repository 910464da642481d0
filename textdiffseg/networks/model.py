"""The whole model, its modules by the paper's names, and `build_model`, which assembles them from a plan."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from plans.network_plan import PaperPlan
from plans.plan import Plan
from textdiffseg.networks.blocks import convolution
from textdiffseg.networks.fusion import ConcatenatedFusion, Fusion, NoFusion, ProjectedFusion
from textdiffseg.networks.image_encoder import DownSampledImage, ImageEncoder
from textdiffseg.networks.label_autoencoder import LabelDecoder, LabelEncoder, NumberEncoder, NumberReduction
from textdiffseg.networks.latent_unet import LatentUNet
from textdiffseg.networks.peers import Peer, build_peer
from textdiffseg.queries import Queries


class TextDiffSeg(nn.Module):
    """The modules of the model. Each method runs one or two; `Segmenter` and the objectives combine the methods.

    Preset `default` has all modules. Preset `unet` has no latent: neither label encoder, `to_latent` nor denoiser. The
    publication's presets have no estimator.
    """

    residual_scale: Tensor  # (k,), a buffer: s, the standard deviation of z_0 - m per channel; 0 until R is trained

    def __init__(
        self,
        plan: Plan,
        *,
        image_encoder: ImageEncoder | DownSampledImage,
        fusion: Fusion | ProjectedFusion | ConcatenatedFusion | NoFusion,
        label_decoder: LabelDecoder,
        label_encoder: LabelEncoder | NumberEncoder | NumberReduction | None = None,
        estimator: LatentUNet | None = None,
        to_latent: nn.Conv3d | None = None,
        denoiser: LatentUNet | None = None,
        reads_skips: bool = True,
    ):
        super().__init__()
        self.reads_skips = reads_skips  # whether the decoder reads the image's skips
        self.plan = plan
        self.image_encoder = image_encoder
        self.fusion = fusion
        self.label_encoder = label_encoder
        self.estimator = estimator
        self.to_latent = to_latent
        self.denoiser = denoiser
        self.label_decoder = label_decoder
        if plan.diffusion:
            self.register_buffer("residual_scale", torch.zeros(plan.latent.channels))

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling: those with convolutions.

        Modules that read tokens are left out, as the number of tokens changes between batches.
        """
        label_stages = getattr(self.label_encoder, "stages", None)
        modules = (self.image_encoder, label_stages, self.estimator, self.denoiser, self.label_decoder)
        return tuple(module for module in modules if module is not None)

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips, finest first."""
        return self.image_encoder(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) and the queries' tokens -> z_it (B, c, d, h, w); (B, k, d, h, w) in preset `paper`."""
        return self.fusion(z_i, queries)

    def estimate(self, z_it: Tensor) -> tuple[Tensor, Tensor | None]:
        """z_it (B, c, d, h, w) -> features (B, c, d, h, w) and the latent m of the mask (B, k, d, h, w) float32.

        In preset `unet` there is no latent.
        """
        features = _present(self.estimator, "estimator", self.plan)([z_it])
        return features, None if self.to_latent is None else self.to_latent(features).float()

    def encode_labels(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 (`Readout.targets`) -> z_0 (B, k, d, h, w). Raises `ValueError` in preset `unet`."""
        return _present(self.label_encoder, "label encoder", self.plan)(slots, queries)

    def denoise(self, noisy: Tensor, t: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The denoiser's output (B, k, d, h, w), for a noisy latent (B, k, d, h, w) at t (B,) from 0 to 1.

        `conditions` are m and z_it, and in preset `paper` only z_it.
        """
        return _present(self.denoiser, "denoiser", self.plan)([noisy, *conditions], t)

    def decode(self, z_0: Tensor | None, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w) and the skips or None -> logits (B, 1 + Q, D, H, W). Preset `unet` has only the skips.

        The skips are features from the finest grid to the latent grid.
        """
        return self.label_decoder(z_0, skips if self.reads_skips else None, queries)

    def reconstruct(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> logits (B, 1 + Q, D, H, W), decoded from the latent without skips."""
        return self.decode(self.encode_labels(slots, queries), None, queries)


SegmentationNetwork = TextDiffSeg | Peer


def can_sample(networks: Sequence[SegmentationNetwork]) -> bool:
    """Whether all networks have a trained denoiser."""
    return all(
        isinstance(one, TextDiffSeg) and (one.plan.paper is not None or bool(one.residual_scale.any()))
        for one in networks
        if one.plan.sample_steps is not None
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
    level, text_width, network = plan.latent.level, plan.text.width, plan.network
    fine, coarse = plan.stages[: level + 1], plan.stages[level:]
    width, channels = fine[-1].width, plan.latent.channels if plan.diffusion else None
    shared: dict[str, Any] = {
        "image_encoder": ImageEncoder(len(plan.channels), (*fine[:-1], fine[-1].model_copy(update={"blocks": 0}))),
        "fusion": Fusion(width, text_width, network.head_width),
        "estimator": LatentUNet(coarse, width, None, network, timed=False),
        "label_decoder": LabelDecoder(fine, text_width, channels),
    }
    if channels is None:
        return TextDiffSeg(plan, **shared)
    parts = plan.parts if plan.regions else None
    narrow = [network.denoiser_stage(stage) for stage in coarse]
    return TextDiffSeg(
        plan,
        **shared,
        label_encoder=LabelEncoder(fine, text_width, channels, network, parts),
        to_latent=convolution(width, channels, (1, 1, 1)),
        denoiser=LatentUNet(narrow, 2 * channels + width, channels, network, timed=True),
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
        label_encoder=NumberEncoder(fine, labels, plan.network) if learned else NumberReduction(stride, labels),
        denoiser=LatentUNet(coarse, 2 * channels, channels, plan.network, timed=True),
        label_decoder=LabelDecoder(fine, text_width, channels, labels),
        reads_skips=False,
    )
