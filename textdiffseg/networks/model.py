"""The whole model, its modules by the paper's names, and `build_model`, which assembles them from a plan."""

from torch import Tensor, nn

from plans.network_plan import PaperPlan
from plans.plan import Plan
from textdiffseg.networks.denoiser import Denoiser
from textdiffseg.networks.fusion import ConcatenatedFusion, Fusion, NoFusion, ProjectedFusion
from textdiffseg.networks.image_encoder import DownSampledImage, ImageEncoder
from textdiffseg.networks.label_autoencoder import LabelDecoder, LabelEncoder, NumberEncoder, NumberReduction
from textdiffseg.networks.peers import Peer, build_peer
from textdiffseg.queries import Queries


class TextDiffSeg(nn.Module):
    """The modules of the model. Each method runs one or two; `Segmenter` and the objectives combine the methods."""

    def __init__(
        self,
        plan: Plan,
        *,
        image_encoder: ImageEncoder | DownSampledImage,
        fusion: Fusion | ProjectedFusion | ConcatenatedFusion | NoFusion,
        label_encoder: LabelEncoder | NumberEncoder | NumberReduction | None,
        denoiser: Denoiser,
        label_decoder: LabelDecoder,
        reads_skips: bool = True,
    ):
        super().__init__()
        self.reads_skips = reads_skips  # whether the decoder reads the image's skips
        self.plan = plan
        self.image_encoder = image_encoder
        self.fusion = fusion
        self.label_encoder = label_encoder
        self.denoiser = denoiser
        self.label_decoder = label_decoder

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling: those with convolutions.

        Modules that read tokens are left out, as the number of tokens changes between batches.
        """
        label_stages = getattr(self.label_encoder, "stages", None)
        modules = (self.image_encoder, label_stages, self.denoiser, self.label_decoder)
        return tuple(module for module in modules if module is not None)

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips, finest first."""
        return self.image_encoder(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) and the queries' tokens -> z_it (B, c, d, h, w); (B, k, d, h, w) in preset `paper`."""
        return self.fusion(z_i, queries)

    def encode_labels(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 (`Readout.targets`) -> z_0 (B, k, d, h, w). Raises `ValueError` in preset `unet`."""
        if self.label_encoder is None:
            raise ValueError("preset unet has no label encoder")
        return self.label_encoder(slots, queries)

    def denoise(self, z_t: Tensor, t: Tensor, z_it: Tensor) -> Tensor:
        """z_t (B, k, d, h, w) at t (B,) int64 -> z_0_hat (B, k, d, h, w), or eps_hat where the plan predicts noise."""
        return self.denoiser(z_t, t, z_it)

    def decode(self, z_0: Tensor, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w) and the skips or None -> logits (B, 1 + Q, D, H, W)."""
        return self.label_decoder(z_0, skips if self.reads_skips else None, queries)

    def reconstruct(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> logits (B, 1 + Q, D, H, W), decoded from the latent without skips."""
        return self.decode(self.encode_labels(slots, queries), None, queries)


SegmentationNetwork = TextDiffSeg | Peer


def build_model(plan: Plan) -> SegmentationNetwork:
    """The untrained model of a plan."""
    if plan.peer:
        return build_peer(plan, plan.peer)
    timesteps = plan.diffusion.timesteps if plan.diffusion else plan.network.unet_timesteps
    if plan.paper:
        return _build_paper(plan, plan.paper, timesteps)
    level, channels, text_width = plan.latent.level, plan.latent.channels, plan.text.width
    fine, coarse = plan.stages[: level + 1], plan.stages[level:]
    parts = plan.parts if plan.regions else None
    return TextDiffSeg(
        plan,
        image_encoder=ImageEncoder(len(plan.channels), fine),
        fusion=Fusion(fine[-1].width, text_width, plan.network.head_width),
        label_encoder=LabelEncoder(fine, text_width, channels, plan.network, parts) if plan.diffusion else None,
        denoiser=Denoiser(coarse, fine[-1].width, channels, timesteps, plan.network),
        label_decoder=LabelDecoder(fine, text_width, channels),
    )


def _build_paper(plan: Plan, paper: PaperPlan, timesteps: int) -> TextDiffSeg:
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
        denoiser=Denoiser(coarse, channels, channels, timesteps, plan.network),
        label_decoder=LabelDecoder(fine, text_width, channels, labels),
        reads_skips=False,
    )
