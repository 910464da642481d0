"""The space that a model reads phrases in. It is frozen with the weights; a bank's phrases may change later.

An encoder's vector v of a phrase is standardised per dimension, (v - mean) / std, over the phrases that the space was
made from. A label's own vector is then projected on what the labels mean: e_q = ((v - mean) / std) P (`projection`).
Statistics and projection have a file of their own, so that a phrase encoded later lands in the same space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from plans.errors import UserError
from plans.records import Record, Upgrades
from textdiffseg.files import hash_parts
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.text.storage import TensorFile

STD_FLOOR = 0.5  # of the mean standard deviation: a dimension that hardly varies here is not blown up later
RIDGE = 0.3  # variance that every direction is assumed to have within a label, of 1 that phrases have in all
SPAN = 1e-9  # of the widest direction: smaller ones are rounding, where labels share their words
MAX_ROUNDING = 1e-3  # between the same space computed on two machines; standardised vectors are about 1 a dimension


@dataclass(frozen=True)
class Standard:
    """Per-dimension statistics that take raw vectors to mean 0 and variance 1."""

    mean: Tensor  # (d_t)
    std: Tensor  # (d_t)

    @staticmethod
    def of(vectors: Tensor) -> "Standard":
        """Statistics of vectors (n, d_t)."""
        std = vectors.std(0, unbiased=False)
        return Standard(vectors.mean(0), std.clamp(min=max(STD_FLOOR * float(std.mean()), 1e-6)))

    def apply(self, raw: Tensor) -> Tensor:
        """Standardised vectors (..., d_t)."""
        return (raw - self.mean) / self.std


class SpaceHeader(Record):
    """What the file of a text space says of it."""

    version: Literal[2] = 2
    encoder: str
    encoder_hash: str | None  # SHA-256 of its weights and vocabulary; None: not known
    width: int
    upgrades: ClassVar[Upgrades] = {1: lambda fields: fields | {"encoder_hash": None}}


_NAMES = ("token_mean", "token_std", "pooled_mean", "pooled_std", "projection")
_FILE = TensorFile(
    noun="text space",
    header=SpaceHeader,
    key="space",
    missing="expected the text space that tds_plan_and_preprocess writes. In a trained fold, copy the fold again.",
    damaged="Run tds_plan_and_preprocess again; in a trained fold, copy the fold again.",
)


@dataclass(frozen=True)
class TextSpace:
    """How vectors of one encoder are standardised and projected."""

    encoder: str  # its name
    token_standard: Standard
    pooled_standard: Standard
    projection: Tensor  # (d_t, d_t), which takes a standardised pooled vector to e_q
    encoder_hash: str | None = None  # of its weights and vocabulary; None: not known

    @classmethod
    def of(
        cls,
        encoder: str,
        labels: Sequence[Sequence[PhraseVectors]],
        others: Sequence[PhraseVectors],
        encoder_hash: str | None = None,
    ) -> "TextSpace":
        """The space of raw vectors: of each label those of its phrasings, and other phrases that belong to none."""
        raw = [*(one for phrases in labels for one in phrases), *others]
        tokens = Standard.of(torch.cat([one.tokens for one in raw]))
        pooled = Standard.of(torch.stack([one.pooled for one in raw]))
        onto = projection([pooled.apply(torch.stack([one.pooled for one in phrases])) for phrases in labels])
        return cls(encoder, tokens, pooled, onto, encoder_hash)

    @property
    def width(self) -> int:
        """d_t."""
        return len(self.pooled_standard.mean)

    @cached_property
    def hash(self) -> str:
        """A hash of all that makes the space, to the last bit."""
        numbers = self._tensors()
        return hash_parts([self.encoder.encode(), *(numbers[name].contiguous().numpy().tobytes() for name in _NAMES)])

    def tokens(self, raw: Tensor) -> Tensor:
        """Raw tokens (L, d_t) as the model reads them."""
        return self.token_standard.apply(raw)

    def phrase(self, raw: PhraseVectors) -> PhraseVectors:
        """A phrase's raw vectors as the model reads them: its tokens, and e_q in place of the pooled vector."""
        return PhraseVectors(self.tokens(raw.tokens), self.pooled_standard.apply(raw.pooled) @ self.projection)

    def is_of(self, encoder: str, encoder_hash: str | None) -> bool:
        """Whether its vectors are those of an encoder: by the hashes where both are known, else by the names."""
        if self.encoder_hash is not None and encoder_hash is not None:
            return self.encoder_hash == encoder_hash
        return self.encoder == encoder

    def agrees(self, other: "TextSpace") -> bool:
        """Whether both are the same but for rounding: two machines may have computed them."""
        if not self.is_of(other.encoder, other.encoder_hash) or self.width != other.width:
            return False
        mine, theirs = self._tensors(), other._tensors()
        return all(torch.allclose(mine[name], theirs[name], MAX_ROUNDING, MAX_ROUNDING) for name in _NAMES)

    def save(self, path: Path) -> None:
        """Write the space's file."""
        header = SpaceHeader(encoder=self.encoder, encoder_hash=self.encoder_hash, width=self.width)
        _FILE.write(path, header, self._tensors())

    @classmethod
    def load(cls, path: Path) -> "TextSpace":
        """Read a space; `UserError` names the file if it is missing, damaged or of a version that is not read."""
        header, found = _FILE.read(path, lambda _: _NAMES)
        *vectors, onto = (found[name] for name in _NAMES)
        width = header.width
        if onto.shape != (width, width) or any(one.shape != (width,) for one in vectors):
            raise UserError(f"{path}: its tensors are not {width} wide, as its header says. {_FILE.damaged}")
        return cls(header.encoder, Standard(*vectors[:2]), Standard(*vectors[2:]), onto, header.encoder_hash)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "token_mean": self.token_standard.mean,
            "token_std": self.token_standard.std,
            "pooled_mean": self.pooled_standard.mean,
            "pooled_std": self.pooled_standard.std,
            "projection": self.projection,
        }


def projection(labels: Sequence[Tensor]) -> Tensor:
    """The map (d_t, d_t) that reads a standardised phrase as the combination of the labels' mean phrases that fits it
    best by generalised least squares, where what does not fit varies as the labels' own phrasings do.

    labels: of each the vectors (n, d_t) of its phrasings, n >= 1. Encoders put "gland beside the liver" near "gland
    beside the spleen" and further from "liver-side gland": over eight phrasings a label, a new one lies 0.66 times as
    far from its label's mean as from the nearest other one, and 0.09 times after the map, which leaves the means
    where they are (docs/method.md). Where no label has a second phrasing the projection is orthogonal: their vectors
    stay as they are, and of a new phrase what they span is read.
    """
    labels = [one.double() for one in labels]
    means = torch.stack([one.mean(0) for one in labels])
    within = torch.cat([one - one.mean(0) for one in labels])
    scatter = within.T @ within / len(within) + RIDGE * torch.eye(means.shape[1], dtype=means.dtype)
    variances, axes = torch.linalg.eigh(scatter)
    whitening, back = axes * variances.rsqrt(), (axes * variances.sqrt()).T
    _, sizes, spanned = torch.linalg.svd(means @ whitening, full_matrices=False)
    spanned = spanned[sizes > SPAN * sizes.max()]
    return (whitening @ spanned.T @ spanned @ back).float()
