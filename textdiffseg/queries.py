"""`Queries`: what a batch is asked for, in vectors; made by `text`, read by `networks`, which know only this."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from textdiffseg.transfer import send

Query = Sequence[tuple[int, int]]
"""What one sample asks for: (label number 1..N, index into that label's phrasings) for each slot."""


@dataclass(frozen=True)
class Queries:
    """The labels asked for, one slot each; samples that ask for fewer than Q labels are padded.

    Slot q of these tensors is class q + 1 of the network's output; class 0 is background.
    """

    labels: Tensor  # (B, Q) int64: label number 1..N of each slot, 0 where padded
    vectors: Tensor  # (B, Q, d_t) float32: one pooled vector a label, e_q
    tokens: Tensor  # (B, S, d_t) float32: the tokens of all labels asked for and of what else is known in words
    token_mask: Tensor  # (B, S) bool: True where a token is real

    @property
    def mask(self) -> Tensor:
        """(B, Q) bool: True where a slot is asked for."""
        return self.labels > 0

    def to(self, device: torch.device | str) -> "Queries":
        """The same queries on another device."""
        return Queries(*(send(getattr(self, field.name), device) for field in fields(self)))

    def of(self, samples: Tensor) -> "Queries":
        """The queries of some samples (S,) int64."""
        return Queries(*(getattr(self, field.name)[samples] for field in fields(self)))

    def padded(self, slots: int) -> "Queries":
        """The same queries with at least so many slots."""
        more = max(0, slots - self.labels.shape[1])
        return replace(self, labels=F.pad(self.labels, (0, more)), vectors=F.pad(self.vectors, (0, 0, 0, more)))

    def expand(self, batch: int) -> "Queries":
        """Queries of one sample (B = 1) repeated for a batch of windows."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Queries(*(part.expand(batch, *part.shape[1:]) for part in parts))

    def with_tokens(self, more: Sequence[Tensor | None]) -> "Queries":
        """The same queries with further tokens (L, d_t) for the samples that have some; one entry a sample."""
        length = max((len(tokens) for tokens in more if tokens is not None), default=0)
        if length == 0:
            return self
        padded = self.tokens.new_zeros(len(self.tokens), length, self.tokens.shape[2])
        mask = self.token_mask.new_zeros(len(self.tokens), length)
        for row, tokens in enumerate(more):
            if tokens is not None:
                padded[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
        return replace(
            self, tokens=torch.cat((self.tokens, padded), 1), token_mask=torch.cat((self.token_mask, mask), 1)
        )

    def slots(self, label_map: Tensor, labels: int) -> Tensor:
        """Label numbers 1..`labels` (B, D, H, W) to slots: 0 background or not asked for, q + 1 asked for in slot q.

        Negative values (ignore) stay as they are.
        """
        table = torch.zeros(len(label_map), 1 + labels, dtype=torch.int64, device=label_map.device)
        order = torch.arange(1, self.labels.shape[1] + 1, device=label_map.device).expand_as(self.labels)
        table.scatter_(1, self.labels, order * self.mask)
        table[:, 0] = 0
        flat = label_map.flatten(1).long()
        return torch.where(flat < 0, flat, table.gather(1, flat.clamp(min=0))).view(label_map.shape)
