"""Diff-UNet (Xing et al., arXiv 2303.10326), written from the paper: diffusion of the label map itself.

The masks of the N labels are x_0, with values -1 and 1. A feature encoder reads the image. A U-Net reads the image and
the noisy masks, and adds the encoder's features at each scale. The sigmoid of its output estimates the masks.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   beta_t linear from 1e-4 to 0.02

Prediction takes 10 DDIM steps. *Step-uncertainty fusion* averages the estimates p_i of the steps i = 1..S, for each
voxel and label:

    p = sum_i w_i p_i / sum_i w_i,   w_i = exp(sigmoid(i / S) (1 - u_i)),   u_i = -p_i log p_i

Two points differ from the paper. p_i comes from one noise, the same for every window; the paper takes the mean of four.
Patches of odd sizes are halved upwards.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple
from plans.plan import Plan
from plans.planning.paper import LABEL_TIMESTEPS
from textdiffseg.networks.blocks import ConvBlock
from textdiffseg.networks.label_decoder import queried_channels
from textdiffseg.networks.peers.peer import Peer, two_positions
from textdiffseg.queries import Queries

FEATURES = 16  # channels at full resolution per 8 of the plan's first stage; published: 64 for 32
FACTORS = (1, 1, 2, 4, 8)  # of each stage's channels
TIME_FACTOR, ANGLES_FACTOR = 8, 2  # channels of the time embedding, and of its sines; published: 512 and 128 for 64
MAX_PERIOD = 10_000  # steps, of the slowest sine
BETAS = (1e-4, 0.02)
KERNEL: Triple = (3, 3, 3)
STRIDE: Triple = (16, 16, 16)  # the image is halved four times
STEPS = 10  # of DDIM
MIN_P = 1e-3  # smaller probabilities are raised to this, so that their logarithm is finite
NOISE_SEED = 0  # of predictions

Features = list[Tensor]
"""Feature maps of the image, (B, c, D, H, W), from the finest to the coarsest."""


class LabelDiffusion(Peer):
    """Diff-UNet with its noise schedule. `training.label_diffusion` trains it."""

    network: "DiffUNet"
    alpha_bar: Tensor  # (T + 1,), a buffer

    def __init__(self, plan: Plan):
        features = FEATURES * max(1, plan.stages[0].width // 8)
        network = DiffUNet(len(plan.channels), len(plan.labels), features)
        super().__init__(plan, network, two_positions(plan.patch, STRIDE))
        betas = torch.linspace(*BETAS, LABEL_TIMESTEPS, dtype=torch.float64)
        alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)))
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)

    @property
    def compilable_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are worth compiling (as in `TextDiffSeg`)."""
        return self.network.encoder, self.network.denoiser

    def encode(self, image: Tensor) -> Features:
        """The features of image (B, C, D, H, W)."""
        return self.network.encoder(self.padded(image))

    def estimate(self, x_t: Tensor, t: Tensor, image: Tensor, features: Features) -> Tensor:
        """x_t (B, N, D, H, W) at t (B,) int64 -> the logits (B, N, D, H, W) float32 of the masks."""
        inputs = self.padded(torch.cat((image, x_t), dim=1))
        return self.cropped(self.network.denoiser(inputs, t, features)).float()

    def diffuse(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t (B, N, D, H, W) from x_0 and eps of the same shape at t (B,) int64."""
        signal, noise = self._scales(t)
        return signal * x_0 + noise * eps

    def logits(self, image: Tensor, queries: Queries) -> Tensor:
        """image (B, C, D, H, W) -> logits (B, 1 + Q, D, H, W) float32, from DDIM and step-uncertainty fusion."""
        logits = torch.logit(self._fused(image), MIN_P)
        return queried_channels(F.pad(logits, (0, 0, 0, 0, 0, 0, 1, 0)), queries)  # the logit of background is 0

    def _fused(self, image: Tensor) -> Tensor:
        """The fused probabilities (B, N, D, H, W) of the masks."""
        features, x = self.encode(image), self._first_noise(image)
        times = torch.arange(STEPS, -1, -1, device=image.device) * (LABEL_TIMESTEPS // STEPS)
        total, weights = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(STEPS):
            t, earlier = (times[index].expand(len(image)) for index in (step, step + 1))
            p = self.estimate(x, t, image, features).sigmoid()
            uncertainty = torch.special.entr(p.clamp(min=MIN_P))
            late = 1 / (1 + math.exp(-(step + 1) / STEPS))  # sigmoid(i / S)
            weight = torch.exp(late * (1 - uncertainty))
            total, weights = total + weight * p, weights + weight
            signal, noise = self._scales(t)
            x_0 = 2 * p - 1
            x = self.diffuse(x_0, (x - signal * x_0) / noise, earlier)
        return total / weights

    def _first_noise(self, image: Tensor) -> Tensor:
        """x_T (B, N, D, H, W). It is drawn on the CPU, so it is the same for every device, window and batch."""
        shape = (len(self.plan.labels), *self.plan.patch)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(NOISE_SEED))
        return noise.to(image.device).expand(len(image), *shape)

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) for t (B,), each (B, 1, 1, 1, 1)."""
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


class DiffUNet(nn.Module):
    """The feature encoder and the denoising U-Net."""

    def __init__(self, channels: int, labels: int, features: int):
        super().__init__()
        self.encoder = FeatureEncoder(channels, features)
        self.denoiser = DenoisingUNet(channels + labels, labels, features)


class FeatureEncoder(nn.Module):
    """Two convolutions at each of five scales. The image is halved between them."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        widths = [factor * features for factor in FACTORS]
        self.stages = nn.ModuleList(
            TwoConvolutions(width_in, width) for width_in, width in zip((channels, *widths), widths, strict=False)
        )

    def forward(self, x: Tensor) -> Features:
        """x (B, C, D, H, W) -> the features of each scale."""
        features: Features = []
        for stage in self.stages:
            features.append(stage(halved(features[-1]) if features else x))
        return features


class DenoisingUNet(nn.Module):
    """A U-Net that reads the image, the noisy masks and t, and adds the image's features at each scale."""

    def __init__(self, width_in: int, labels: int, features: int):
        super().__init__()
        widths = [factor * features for factor in FACTORS]
        self.time = TimeSteps(ANGLES_FACTOR * features, TIME_FACTOR * features)
        self.down = nn.ModuleList(
            TwoConvolutions(width, width_out, TIME_FACTOR * features)
            for width, width_out in zip((width_in, *widths), widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (coarse, fine), from the coarsest
        uppers = [coarse // 2 if coarse > features else coarse for coarse, _ in pairs]
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, upper, 2, 2) for (coarse, _), upper in zip(pairs, uppers, strict=True)
        )
        self.merge = nn.ModuleList(
            TwoConvolutions(upper + fine, fine, TIME_FACTOR * features)
            for (_, fine), upper in zip(pairs, uppers, strict=True)
        )
        self.classifier = nn.Conv3d(features, labels, 1)

    def forward(self, x: Tensor, t: Tensor, features: Features) -> Tensor:
        """x (B, C + N, D, H, W), t (B,) int64 and the image's features -> logits (B, N, D, H, W)."""
        time, skips = self.time(t), list[Tensor]()
        for stage, feature in zip(self.down, features, strict=True):
            skips.append(stage(halved(skips[-1]) if skips else x, time) + feature)
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            skip = skips.pop()
            depth, height, width = skip.shape[2:]
            x = merge(torch.cat((skip, up(x)[:, :, :depth, :height, :width]), dim=1), time)
        return self.classifier(x)


class TwoConvolutions(nn.Module):
    """Two convolutions, each with normalisation and activation. A projection of the time is added between them."""

    def __init__(self, width_in: int, width: int, time_width: int | None = None):
        super().__init__()
        self.first = ConvBlock(width_in, width, KERNEL)
        self.second = ConvBlock(width, width, KERNEL)
        self.shift = None if time_width is None else nn.Linear(time_width, width)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x (B, C, D, H, W) and time (B, time_width) -> (B, width, D, H, W)."""
        x = self.first(x)
        if self.shift is not None:
            x = x + self.shift(time)[..., None, None, None]
        return self.second(x)


class TimeSteps(nn.Module):
    """Sines and cosines of t, followed by a two-layer perceptron."""

    frequencies: Tensor  # (angles // 2,), a buffer

    def __init__(self, angles: int, width: int):
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, -math.log(MAX_PERIOD), angles // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.perceptron = nn.Sequential(nn.Linear(angles, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) int64 -> (B, width)."""
        angles = t.float()[:, None] * self.frequencies
        return self.perceptron(torch.cat((angles.sin(), angles.cos()), dim=1))


def halved(x: Tensor) -> Tensor:
    """The maximum of each 2 x 2 x 2 voxels of x (B, C, D, H, W). An odd size is rounded upwards."""
    return F.max_pool3d(x, 2, ceil_mode=True)
