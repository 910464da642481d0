"""The overview encoder: tokens of the whole scan, which are appended to the words' tokens of eq. 2."""

import torch
from torch import Tensor, nn

from plans.geometry import triple
from plans.network_plan import OverviewPlan
from textdiffseg.networks.blocks import ConvBlock
from textdiffseg.overview import Overview
from textdiffseg.queries import Queries


class OverviewEncoder(nn.Module):
    """Strided blocks over the scan at low resolution. Each position of their grid becomes one token with its place."""

    def __init__(self, channels: int, plan: OverviewPlan, text_width: int):
        super().__init__()
        widths = (channels, *plan.widths)
        self.stages = nn.Sequential(
            *(
                ConvBlock(width_in, width, triple((3, 3, 3)), triple((2, 2, 2)))
                for width_in, width in zip(widths, plan.widths, strict=False)
            )
        )
        last = plan.widths[-1]
        self.place = nn.Sequential(nn.Linear(3, last), nn.SiLU(), nn.Linear(last, last))
        self.out = nn.Sequential(nn.Linear(2 * last, text_width), nn.LayerNorm(text_width))

    def forward(self, overview: Overview) -> Tensor:
        """The tokens (B, t * t * t, d_t) of the overviews of a batch. Each token has mean 0 and variance 1."""
        features = self.stages(overview.image).flatten(2).transpose(1, 2)
        positions = self.place(overview.offsets.flatten(1, 3))
        return self.out(torch.cat((features, positions.to(features.dtype)), dim=-1))

    def with_overview_tokens(self, queries: Queries) -> Queries:
        """The queries with the scan's tokens after the words' tokens. Raises `ValueError` without an overview."""
        if queries.overview is None:
            raise ValueError("this model reads an overview of the scan, and the queries have none")
        return queries.with_scan(self(queries.overview))
