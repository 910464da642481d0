"""The whole model, assembled in one visible function, and its parts by the paper's names."""

from torch import Tensor, nn

from plans.plan import PaperPlan, Plan
from textdiffseg.networks.denoiser import Denoiser
from textdiffseg.networks.fusion import ConcatenatedFusion, Fusion, NoFusion, ProjectedFusion
from textdiffseg.networks.image_encoder import DownSampledImage, ImageEncoder
from textdiffseg.networks.label_autoencoder import LabelDecoder, LabelEncoder, NumberEncoder, NumberReduction
from textdiffseg.networks.peers import Peer
from textdiffseg.queries import Queries


class TextDiffSeg(nn.Module):
    """The parts that `Segmenter` and the training objectives put together; each method runs one or two."""

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
        self.reads_skips = reads_skips  # the decoder sees the image's skips
        self.plan = plan
        self.image_encoder = image_encoder
        self.fusion = fusion
        self.label_encoder = label_encoder
        self.denoiser = denoiser
        self.label_decoder = label_decoder

    @property
    def heavy_parts(self) -> tuple[nn.Module, ...]:
        """The parts worth compiling: all convolutions; not what reads tokens, whose number changes."""
        label_stages = getattr(self.label_encoder, "stages", None)
        parts = (self.image_encoder, label_stages, self.denoiser, self.label_decoder)
        return tuple(part for part in parts if part is not None)

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips, finest first."""
        return self.image_encoder(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) and words -> z_it (B, c, d, h, w); of the publication (B, k, d, h, w)."""
        return self.fusion(z_i, queries)

    def encode_labels(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 (`Readout.targets`) -> z_0 (B, k, d, h, w); preset `unet` has none."""
        if self.label_encoder is None:
            raise ValueError("preset unet has no label encoder")
        return self.label_encoder(slots, queries)

    def denoise(self, z_t: Tensor, t: Tensor, z_it: Tensor) -> Tensor:
        """z_t (B, k, d, h, w) at t (B,) int64 -> z_0_hat (B, k, d, h, w), or eps_hat where the plan predicts that."""
        return self.denoiser(z_t, t, z_it)

    def decode(self, z_0: Tensor, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w) and the skips, None for none -> logits (B, 1 + Q, D, H, W)."""
        return self.label_decoder(z_0, skips if self.reads_skips else None, queries)

    def reconstruct(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> logits (B, 1 + Q, D, H, W) of what the latent alone carries: no skips."""
        return self.decode(self.encode_labels(slots, queries), None, queries)


SegmentationNetwork = TextDiffSeg | Peer


def build_model(plan: Plan) -> SegmentationNetwork:
    """The untrained model of a plan."""
    if plan.peer:
        return Peer(plan, plan.peer)
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
    """The publication's model, with the parts that its ablations replace."""
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
