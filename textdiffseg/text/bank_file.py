"""The file of a text bank: its words and their raw vectors, as the encoder returns them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch

from plans.errors import UserError
from plans.records import Record
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.text.storage import TensorFile
from textdiffseg.text.words import Words

Vectors = tuple[tuple[PhraseVectors, ...], ...]  # [label - 1][phrasing]


class BankHeader(Record):
    """The record in the file's header."""

    version: Literal[2] = 2  # version 1 also held the space
    space: str  # hash of the text space that the bank belongs to
    words: Words
    lengths: tuple[int, ...]  # tokens of each phrase, in file order: all phrasings, then the scan


_FILE = TensorFile(
    noun="text bank",
    header=BankHeader,
    key="words",
    missing="expected the text bank that tds_plan_and_preprocess writes. In a trained fold, copy the fold again.",
    damaged="Run tds_plan_and_preprocess again; in a trained fold, copy the fold again or train it with --restart.",
)


def write_bank(path: Path, space: str, words: Words, vectors: Sequence[PhraseVectors]) -> None:
    """Write a bank whose space has the hash `space`. `vectors` are in file order: all phrasings, then the scan."""
    header = BankHeader(space=space, words=words, lengths=tuple(len(phrase.tokens) for phrase in vectors))
    tokens = torch.cat([phrase.tokens for phrase in vectors])
    pooled = torch.stack([phrase.pooled for phrase in vectors])
    _FILE.write(path, header, {"tokens": tokens, "pooled": pooled})


def read_bank(path: Path) -> tuple[BankHeader, list[PhraseVectors]]:
    """The header and the vectors in file order. Raises `UserError` if they do not fit each other."""
    header, tensors = _FILE.read(path, lambda _: ("tokens", "pooled"))
    words, lengths, tokens, pooled = header.words, header.lengths, tensors["tokens"], tensors["pooled"]
    phrases = sum(len(phrasings) for phrasings in words.phrasings) + bool(words.scan.strip())
    fits = len(words.labels) == len(words.phrasings) and phrases == len(lengths) == len(pooled)
    if not fits or sum(lengths) != len(tokens) or tokens.shape[1:] != pooled.shape[1:]:
        raise UserError(f"{path}: its words and its vectors differ in number. {_FILE.damaged}")
    return header, [PhraseVectors(*pair) for pair in zip(tokens.split(lengths), pooled, strict=True)]


def by_label(words: Words, flat: Iterable[PhraseVectors]) -> tuple[Vectors, PhraseVectors | None]:
    """Vectors in file order as [label - 1][phrasing], and those of the scan's description or None."""
    remaining = iter(flat)
    vectors = tuple(tuple(next(remaining) for _ in phrasings) for phrasings in words.phrasings)
    return vectors, next(remaining, None)
