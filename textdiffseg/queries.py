"""`Queries`: the queried labels of a batch as text vectors. `text` makes them and `networks` reads them.

With them goes the `Overview` of the scan, which networks read as more tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from textdiffseg.overview import Overview
from textdiffseg.transfer import send

Query = Sequence[tuple[int, int]]
"""The queried labels of one sample: (label number 1..N, index of the phrasing) for each slot."""


@dataclass(frozen=True)
class Queries:
    """The queried labels of a batch. Each label has a slot; samples with fewer than Q labels are padded.

    Slot q of these tensors is class q + 1 of the network's output. Class 0 is background.
    """

    labels: Tensor  # (B, Q) int64: label number 1..N of each slot, 0 where padded
    vectors: Tensor  # (B, Q, d_t) float32: e_q, the pooled text vector of each label
    tokens: Tensor  # (B, S, d_t) float32: the tokens of all queried labels, of the scan's description and case text
    token_mask: Tensor  # (B, S) bool: False where a token is padding
    overview: Overview | None = None  # of the scan, if the network reads it

    @property
    def mask(self) -> Tensor:
        """(B, Q) bool: False where a slot is padding."""
        return self.labels > 0

    def to(self, device: torch.device | str) -> "Queries":
        """The same queries on another device."""
        overview = None if self.overview is None else self.overview.to(device)
        return self._each(lambda tensor: send(tensor, device), overview)

    def of(self, samples: Tensor) -> "Queries":
        """The queries of the samples with the indices `samples` (S,) int64."""
        overview = None if self.overview is None else self.overview.of(samples)
        return self._each(lambda tensor: tensor[samples], overview)

    def padded(self, slots: int) -> "Queries":
        """The same queries, padded to at least `slots` slots."""
        more = max(0, slots - self.labels.shape[1])
        return replace(self, labels=F.pad(self.labels, (0, more)), vectors=F.pad(self.vectors, (0, 0, 0, more)))

    def expand(self, batch: int) -> "Queries":
        """The queries of one sample (B = 1), repeated for a batch of windows, without an overview."""
        return self._each(lambda tensor: tensor.expand(batch, *tensor.shape[1:]), None)

    def with_scan(self, tokens: Tensor) -> "Queries":
        """The same queries with the tokens (B, T, d_t) of the scan after the others, where its overview is known."""
        assert self.overview is not None, "expected an overview"
        known = self.overview.known[:, None].expand(tokens.shape[:2])
        return replace(
            self,
            tokens=torch.cat((self.tokens, tokens.to(self.tokens.dtype)), 1),
            token_mask=torch.cat((self.token_mask, known), 1),
        )

    def _each(self, change: Callable[[Tensor], Tensor], overview: Overview | None) -> "Queries":
        labels, vectors, tokens, token_mask = map(change, (self.labels, self.vectors, self.tokens, self.token_mask))
        return Queries(labels, vectors, tokens, token_mask, overview)

    def with_tokens(self, more: Sequence[Tensor | None]) -> "Queries":
        """The same queries with more tokens. `more` has one entry per sample: tokens (L, d_t), or None."""
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
        """The slots (B, D, H, W) int64 of a map of label numbers 0..`labels` (B, D, H, W).

        q + 1 is the label of slot q; 0 is background or a label that is not queried. Negative (ignored) voxels keep
        their value.
        """
        slot_of_label = torch.zeros(len(label_map), 1 + labels, dtype=torch.int64, device=label_map.device)
        slots = torch.arange(1, self.labels.shape[1] + 1, device=label_map.device).expand_as(self.labels)
        slot_of_label.scatter_(1, self.labels, slots * self.mask)
        slot_of_label[:, 0] = 0
        flat = label_map.flatten(1).long()
        return torch.where(flat < 0, flat, slot_of_label.gather(1, flat.clamp(min=0))).view(label_map.shape)
