"""`TextSpace`: the standardised and projected text vectors that a model reads.

    e_q = ((v - mean) / std) P

v is the encoder's pooled vector of a phrase. mean and std (per dimension) are statistics of the phrases that the space
was made from. P is the `projection` on the labels' mean vectors. Tokens are standardised only.

The space is frozen with the weights and has a file of its own. A phrase that is encoded later uses the same space.
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

# Of a standard deviation to the mean one. Otherwise a new phrase could be very large in a constant dimension.
MIN_STD_RATIO = 0.5
RIDGE = 0.3  # assumed variance within a label in every direction; all phrases together have variance 1
MIN_SINGULAR_RATIO = 1e-9  # to the largest singular value; smaller ones are rounding, if labels share phrases
MAX_ROUNDING = 1e-3  # between two machines; standardised vectors are about 1 per dimension


@dataclass(frozen=True)
class Standard:
    """Statistics per dimension. They standardise raw vectors to mean 0 and variance 1."""

    mean: Tensor  # (d_t)
    std: Tensor  # (d_t)

    @staticmethod
    def of(vectors: Tensor) -> "Standard":
        """The statistics of vectors (n, d_t)."""
        std = vectors.std(0, unbiased=False)
        return Standard(vectors.mean(0), std.clamp(min=max(MIN_STD_RATIO * float(std.mean()), 1e-6)))

    def apply(self, raw: Tensor) -> Tensor:
        """The standardised vectors (..., d_t) of raw ones of the same shape."""
        return (raw - self.mean) / self.std


class SpaceHeader(Record):
    """The record in the header of the file."""

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
    damaged="Run tds_plan_and_preprocess again; in a trained fold, copy the fold again or train it with --restart.",
)


@dataclass(frozen=True)
class TextSpace:
    """The standardisation and the projection of one encoder's vectors."""

    encoder: str  # its name
    token_standard: Standard
    pooled_standard: Standard
    projection: Tensor  # P (d_t, d_t)
    encoder_hash: str | None = None  # of its weights and vocabulary; None: not known

    @classmethod
    def of(
        cls,
        encoder: str,
        labels: Sequence[Sequence[PhraseVectors]],
        others: Sequence[PhraseVectors],
        encoder_hash: str | None = None,
    ) -> "TextSpace":
        """The space of an encoder's raw vectors.

        Args:
            encoder: its name.
            labels: the vectors of each label's phrasings.
            others: the vectors of phrases that belong to no label. They count in the statistics only.
            encoder_hash: of its weights and vocabulary; None: unknown.
        """
        raw = [*(phrase for phrases in labels for phrase in phrases), *others]
        tokens = Standard.of(torch.cat([phrase.tokens for phrase in raw]))
        pooled = Standard.of(torch.stack([phrase.pooled for phrase in raw]))
        onto = projection([pooled.apply(torch.stack([phrase.pooled for phrase in phrases])) for phrases in labels])
        return cls(encoder, tokens, pooled, onto, encoder_hash)

    @property
    def width(self) -> int:
        """The width d_t of the vectors."""
        return len(self.pooled_standard.mean)

    @cached_property
    def hash(self) -> str:
        """A hash of the encoder's name and of all numbers of the space, exact to the last bit."""
        numbers = self._tensors()
        return hash_parts([self.encoder.encode(), *(numbers[name].contiguous().numpy().tobytes() for name in _NAMES)])

    def tokens(self, raw: Tensor) -> Tensor:
        """The tokens (L, d_t) in this space, of raw ones of the same shape."""
        return self.token_standard.apply(raw)

    def phrase(self, raw: PhraseVectors) -> PhraseVectors:
        """The vectors of a phrase in this space: its tokens, and e_q as the pooled vector."""
        return PhraseVectors(self.tokens(raw.tokens), self.pooled_standard.apply(raw.pooled) @ self.projection)

    def is_of(self, encoder: str, encoder_hash: str | None) -> bool:
        """Whether the space belongs to an encoder: by the hashes if both are known, else by the names."""
        if self.encoder_hash is not None and encoder_hash is not None:
            return self.encoder_hash == encoder_hash
        return self.encoder == encoder

    def agrees(self, other: "TextSpace") -> bool:
        """Whether both spaces are equal up to the rounding of two machines."""
        if not self.is_of(other.encoder, other.encoder_hash) or self.width != other.width:
            return False
        mine, theirs = self._tensors(), other._tensors()
        return all(torch.allclose(mine[name], theirs[name], MAX_ROUNDING, MAX_ROUNDING) for name in _NAMES)

    def save(self, path: Path) -> None:
        """Write the file of the space."""
        header = SpaceHeader(encoder=self.encoder, encoder_hash=self.encoder_hash, width=self.width)
        _FILE.write(path, header, self._tensors())

    @classmethod
    def load(cls, path: Path) -> "TextSpace":
        """The space in a file. Raises `UserError` if the file is missing, damaged or of an unknown version."""
        header, tensors = _FILE.read(path, lambda _: _NAMES)
        *vectors, onto = (tensors[name] for name in _NAMES)
        width = header.width
        if onto.shape != (width, width) or any(vector.shape != (width,) for vector in vectors):
            raise UserError(f"{path}: its tensors are not {width} wide, unlike its header. {_FILE.damaged}")
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
    """The projection P (d_t, d_t) of standardised vectors on the span of the labels' mean vectors.

    It is a generalised least-squares fit: a vector becomes the best combination of the means. The residuals have the
    covariance of the phrasings within a label, plus `RIDGE`. The means themselves do not change.

    Encoders put "gland beside the liver" near "gland beside the spleen" and far from "liver-side gland". Measured with
    eight phrasings per label: a new phrasing is 0.66 times as far from its label's mean as from the nearest other mean.
    After the projection it is 0.09 times as far (docs/history.md). If every label has one phrasing, P is orthogonal.

    Args:
        labels: for each label the vectors (n, d_t) of its phrasings, n >= 1.
    """
    labels = [vectors.double() for vectors in labels]
    means = torch.stack([vectors.mean(0) for vectors in labels])
    within = torch.cat([vectors - vectors.mean(0) for vectors in labels])
    scatter = within.T @ within / len(within) + RIDGE * torch.eye(means.shape[1], dtype=means.dtype)
    variances, axes = torch.linalg.eigh(scatter)
    whitening, back = axes * variances.rsqrt(), (axes * variances.sqrt()).T
    _, sizes, spanned = torch.linalg.svd(means @ whitening, full_matrices=False)
    spanned = spanned[sizes > MIN_SINGULAR_RATIO * sizes.max()]
    return (whitening @ spanned.T @ spanned @ back).float()
