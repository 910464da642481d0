"""The whole model, assembled in one visible function, and its parts by the paper's names."""

from torch import Tensor, nn

from plans.plan import Plan
from textdiffseg.networks.denoiser import Denoiser
from textdiffseg.networks.fusion import Fusion
from textdiffseg.networks.image_encoder import ImageEncoder
from textdiffseg.networks.label_autoencoder import LabelDecoder, LabelEncoder
from textdiffseg.queries import Queries

UNET_TIMESTEPS = 1000  # preset unet runs the denoiser once, at this t, on a zero latent


class TextDiffSeg(nn.Module):
    """The parts that training and prediction put together; each method is one arrow of DESIGN section 4."""

    def __init__(
        self,
        plan: Plan,
        *,
        image_encoder: ImageEncoder,
        fusion: Fusion,
        label_encoder: LabelEncoder | None,
        denoiser: Denoiser,
        label_decoder: LabelDecoder,
    ):
        super().__init__()
        self.plan = plan
        self.image_encoder = image_encoder
        self.fusion = fusion
        self.label_encoder = label_encoder
        self.denoiser = denoiser
        self.label_decoder = label_decoder

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """image (B, C, D, H, W) -> z_i (B, c, d, h, w) and the skips, finest first."""
        return self.image_encoder(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        """z_i (B, c, d, h, w) and words -> z_it (B, c, d, h, w)."""
        return self.fusion(z_i, queries)

    def encode_labels(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 (`Queries.slots`) -> z_0 (B, k, d, h, w); preset `unet` has no label encoder."""
        if self.label_encoder is None:
            raise ValueError("preset unet has no label encoder")
        return self.label_encoder(slots, queries)

    def denoise(self, z_t: Tensor, t: Tensor, z_it: Tensor) -> Tensor:
        """z_t (B, k, d, h, w) at t (B,) int64 -> z_0_hat (B, k, d, h, w)."""
        return self.denoiser(z_t, t, z_it)

    def decode(self, z_0: Tensor, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        """z_0 (B, k, d, h, w) -> logits (B, 1 + Q, D, H, W)."""
        return self.label_decoder(z_0, skips, queries)


def build_model(plan: Plan) -> TextDiffSeg:
    """The untrained model of a plan."""
    level, channels, text_width = plan.latent.level, plan.latent.channels, plan.text.width
    fine, coarse = plan.stages[: level + 1], plan.stages[level:]
    timesteps = plan.diffusion.timesteps if plan.diffusion else UNET_TIMESTEPS
    return TextDiffSeg(
        plan,
        image_encoder=ImageEncoder(len(plan.channels), fine),
        fusion=Fusion(fine[-1].width, text_width),
        label_encoder=LabelEncoder(fine, text_width, channels) if plan.diffusion else None,
        denoiser=Denoiser(coarse, fine[-1].width, channels, timesteps),
        label_decoder=LabelDecoder(fine, text_width, channels),
    )
