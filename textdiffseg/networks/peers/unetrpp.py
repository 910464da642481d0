"""UNETR++ (Shaker et al., IEEE Transactions on Medical Imaging 2024), written from the paper.

It is a U-Net whose blocks attend over space and over channels, with shared queries and keys. For each head, with
x (N, c) of N positions, queries Q, keys K and values V_s and V_c:

    X_s = softmax(Q (E K)^T / T_s) (E V_s)     E projects N positions to P, so the cost is linear in N
    X_c = V_c softmax(K^T Q / T_c)             c x c
    x  <- x + gamma [X_s W_s, X_c W_c]         each W halves the channels

The columns of Q and K have length 1 where they meet over positions. A block adds learned positions first and ends in
convolutions.

Three points differ from the authors' training. There is no dropout, as its random numbers are not stored and a resumed
run would differ. There is no deep supervision. A patch that a stride does not divide is padded before each
down-sampling.
"""

from math import gcd, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans.geometry import Triple, triple
from plans.plan import Plan
from plans.planning.rules import ladder
from textdiffseg.networks.peers.peer import Peer, padded_to, two_positions

FEATURES = 4  # channels at full resolution per 8 of the plan's first stage; published: 16 for 32
BLOCKS = 3  # of each stage
HEADS = 4
PROJECTED = (64, 64, 64, 32)  # P of the encoder's stages
PROJECTED_IN_DECODER = 64
HALVED: Triple = (2, 2, 2)
LARGE: Triple = (512, 512, 512)  # voxels; a patch that is never too short to be halved


def unetrpp(plan: Plan) -> Peer:
    """UNETR++. It has the published widths where the plan's first stage is 32 wide, else narrower in proportion."""
    stem = stem_stride(plan)
    size = two_positions(plan.patch, triple(8 * stride for stride in stem))
    features = FEATURES * max(1, plan.stages[0].width // 8)
    return Peer(plan, UnetrPlusPlus(len(plan.channels), 1 + len(plan.labels), features, size, stem), size)


def stem_stride(plan: Plan) -> Triple:
    """The stride of the first stage: two of nnU-Net's poolings, which depend on the spacing.

    For the paper's data sets these are the published strides: 2 x 4 x 4 for Synapse, 1 x 4 x 4 for ACDC, 4 x 4 x 4 for
    BraTS.
    """
    return ladder(plan.spacing, LARGE).total(2)


class UnetrPlusPlus(nn.Module):
    """The network for images of one size (D, H, W), as it learns one vector per position."""

    def __init__(self, channels: int, classes: int, features: int, size: Triple, stem: Triple):
        super().__init__()
        widths = tuple(features * 2**stage for stage in range(1, 5))
        strides = (stem, HALVED, HALVED, HALVED)
        grids = [size]
        for stride in strides:
            grids.append(triple(-(-edge // step) for edge, step in zip(grids[-1], stride, strict=True)))
        self.down = nn.ModuleList(
            DownSampling(width_in, width, stride)
            for width_in, width, stride in zip((channels, *widths), widths, strides, strict=False)
        )
        self.encoder = nn.ModuleList(
            _stage(width, grid, projected) for width, grid, projected in zip(widths, grids[1:], PROJECTED, strict=True)
        )
        self.up = nn.ModuleList(
            UpSampling(coarse, fine, stride)
            for coarse, fine, stride in zip(widths[::-1], (*widths[-2::-1], features), strides[::-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            _stage(width, grid, PROJECTED_IN_DECODER)
            for width, grid in zip(widths[-2::-1], grids[-2:0:-1], strict=True)
        )
        self.full_resolution = _convolutions(channels, features, "instance")
        self.last = _convolutions(features, features, "instance")
        self.classifier = nn.Conv3d(features, classes, 1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, D, H, W) -> logits (B, classes, D, H, W)."""
        skips, x = [self.full_resolution(image)], image
        for down, stage in zip(self.down, self.encoder, strict=True):
            x = stage(down(x))
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.up, (*self.decoder, self.last), strict=True):
            x = stage(up(x, skips.pop()))
        return self.classifier(x)


class DownSampling(nn.Module):
    """A convolution whose kernel is its stride, then a group normalisation. The image is padded to the stride."""

    def __init__(self, width_in: int, width: int, stride: Triple):
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv3d(width_in, width, stride, stride, bias=False)
        self.norm = nn.GroupNorm(gcd(width_in, width), width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, width, ceil(D / stride), ...)."""
        size = [edge + -edge % step for edge, step in zip(x.shape[2:], self.stride, strict=True)]
        return self.norm(self.convolution(padded_to(x, size)))


class UpSampling(nn.Module):
    """A transposed convolution, cut to the size of the skip, which is added."""

    def __init__(self, width_in: int, width: int, stride: Triple):
        super().__init__()
        self.convolution = nn.ConvTranspose3d(width_in, width, stride, stride, bias=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, C, d, h, w) and skip (B, width, D, H, W) -> (B, width, D, H, W)."""
        depth, height, width = skip.shape[2:]
        return self.convolution(x)[:, :, :depth, :height, :width] + skip


class PairedBlock(nn.Module):
    """Learned positions, paired attention, and convolutions, each with a residual connection."""

    def __init__(self, width: int, grid: Triple, projected: int):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, prod(grid), width))
        self.norm = nn.LayerNorm(width)
        self.attention = PairedAttention(width, prod(grid), projected)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        self.convolutions = _convolutions(width, width, "batch")
        self.out = nn.Conv3d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> the same shape."""
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + self.gamma * self.attention(self.norm(tokens))
        x = tokens.transpose(1, 2).reshape(x.shape)
        return x + self.out(self.convolutions(x))


class PairedAttention(nn.Module):
    """Attention over space and over channels, with shared queries and keys (the module's equations)."""

    def __init__(self, width: int, positions: int, projected: int):
        super().__init__()
        self.shared = nn.Linear(width, 4 * width, bias=False)  # Q, K, V_s and V_c
        self.project = nn.Linear(positions, projected)  # E
        self.space_scale = nn.Parameter(torch.ones(HEADS, 1, 1))  # 1 / T_s
        self.channel_scale = nn.Parameter(torch.ones(HEADS, 1, 1))  # 1 / T_c
        self.space_out = nn.Linear(width, width // 2)
        self.channel_out = nn.Linear(width, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, C) -> (B, N, C)."""
        heads = self.shared(x).unflatten(2, (4, HEADS, -1))  # (B, N, 4, heads, c)
        q, k, v_s, v_c = heads.permute(2, 0, 3, 4, 1)  # each (B, heads, c, N)
        few_k, few_v = self.project(k), self.project(v_s)  # (B, heads, c, P)
        q, k = F.normalize(q, dim=3), F.normalize(k, dim=3)
        over_space = (q.mT @ few_k * self.space_scale).softmax(3) @ few_v.mT  # (B, heads, N, c)
        over_channels = (q @ k.mT * self.channel_scale).softmax(3) @ v_c  # (B, heads, c, N)
        by_position = over_space.transpose(1, 2), over_channels.permute(0, 3, 1, 2)  # (B, N, heads, c)
        space, channels = (values.flatten(2) for values in by_position)
        return torch.cat((self.space_out(space), self.channel_out(channels)), dim=2)


def _stage(width: int, grid: Triple, projected: int) -> nn.Sequential:
    return nn.Sequential(*(PairedBlock(width, grid, projected) for _ in range(BLOCKS)))


def _convolutions(width_in: int, width: int, norm: str) -> nn.Module:
    """Two 3 x 3 x 3 convolutions with a residual connection."""
    from monai.networks.blocks.dynunet_block import UnetResBlock  # the import takes seconds

    return UnetResBlock(3, width_in, width, kernel_size=3, stride=1, norm_name=norm)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
