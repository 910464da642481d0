"""Texts about single cases, as tokens beside a bank's: encoded once, read with some probability in training.

One safetensors file holds the tokens of each case as the encoder gives them, with the texts' hashes in its header, so
that an edited text renews its own entry alone. A text space is applied where tokens are read, so that new words
leave the file as it is.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from plans.errors import UserError, listed
from plans.records import Record, Upgrades
from textdiffseg.files import hash_text
from textdiffseg.text.bank import TextBank
from textdiffseg.text.encoder import MAX_TEXT_TOKENS, TextEncoder
from textdiffseg.text.folder import encoder_hash
from textdiffseg.text.storage import TensorFile


class Entry(Record):
    """What is known of one text without its tokens."""

    hash: str  # of the text
    length: int  # in tokens, before it was cut to MAX_TEXT_TOKENS


class TextsHeader(Record):
    """Of a file of case texts."""

    version: Literal[2] = 2
    encoder: str
    encoder_hash: str | None  # SHA-256 of its weights and vocabulary; None: not known
    cases: dict[str, Entry]
    upgrades: ClassVar[Upgrades] = {1: lambda fields: fields | {"encoder_hash": None}}


_FILE = TensorFile(
    noun="file of texts",
    header=TextsHeader,
    key="texts",
    missing="this plan reads texts of cases. Put the data set's texts/ back and run tds_plan_and_preprocess again.",
    damaged="Run tds_plan_and_preprocess again.",
)


@dataclass(frozen=True)
class CaseText:
    """One text and its raw tokens (L, d_t)."""

    entry: Entry
    tokens: Tensor


def encode_text(text: str, encoder: TextEncoder) -> CaseText:
    """A text's tokens as the encoder gives them, the first `MAX_TEXT_TOKENS` of them."""
    (vectors,) = encoder.encode([text], MAX_TEXT_TOKENS)
    return CaseText(Entry(hash=hash_text(text), length=encoder.length(text)), vectors.tokens)


def update_case_texts(path: Path, texts: Mapping[str, str], encoder: str) -> tuple[str, ...]:
    """Make the file hold `texts` (by case) in vectors of `encoder`; entries that fit stay as they are.

    Without texts there is no file. Returns what there is to say. Raises `UserError` if the encoder cannot be had.
    """
    if not texts:
        path.unlink(missing_ok=True)
        return ()
    before = _stored(path, encoder)
    kept = {case: one for case, one in before.items() if case in texts and one.entry.hash == hash_text(texts[case])}
    new = sorted(set(texts) - set(kept))
    if new:
        loaded = TextEncoder(encoder)
        kept |= {case: encode_text(texts[case], loaded) for case in new}
    if new or len(kept) < len(before):
        _write(path, encoder, kept)
    told = f"Texts of {len(kept)} cases: {len(new)} encoded, {len(kept) - len(new)} unchanged."
    return (told, *tell_cuts({case: one.entry.length for case, one in kept.items()}))


def tell_cuts(lengths: Mapping[str, int]) -> tuple[str, ...]:
    """A sentence on the texts that are longer than what is read of them; `lengths` in tokens, by case."""
    long = sorted(case for case, length in lengths.items() if length > MAX_TEXT_TOKENS)
    if not long:
        return ()
    return (f"Only the first {MAX_TEXT_TOKENS} tokens are read of the texts of {listed(long)}.",)


def read_case_texts(path: Path, bank: TextBank, cases: Collection[str]) -> dict[str, Tensor]:
    """Tokens (L, d_t) in the bank's space of those of `cases` that have a text.

    Raises `UserError` where the file is missing, damaged, or of another encoder than the bank.
    """
    header, tokens = _read(path, cases)
    if not bank.space.is_of(header.encoder, header.encoder_hash):
        raise UserError(
            f"{path} was made with the text encoder {header.encoder!r}, the model's is {bank.space.encoder!r}: "
            "run tds_plan_and_preprocess with that one."
        )
    return {case: bank.space.tokens(raw) for case, raw in tokens.items()}


def _stored(path: Path, encoder: str) -> dict[str, CaseText]:
    """What the file holds; nothing where it is missing, damaged, of another version or encoder: it is made anew."""
    with suppress(UserError):
        header, tokens = _read(path)
        if (header.encoder, header.encoder_hash) == (encoder, encoder_hash(encoder)):
            return {case: CaseText(header.cases[case], raw) for case, raw in tokens.items()}
    return {}


def _write(path: Path, encoder: str, texts: Mapping[str, CaseText]) -> None:
    header = TextsHeader(
        encoder=encoder,
        encoder_hash=encoder_hash(encoder),
        cases={case: one.entry for case, one in sorted(texts.items())},
    )
    _FILE.write(path, header, {case: one.tokens for case, one in texts.items()})


def _read(path: Path, cases: Collection[str] | None = None) -> tuple[TextsHeader, dict[str, Tensor]]:
    """The header, and the tokens of those of `cases` (by default of all) that have a text."""
    return _FILE.read(path, lambda header: [case for case in header.cases if cases is None or case in cases])
