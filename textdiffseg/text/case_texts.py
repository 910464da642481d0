"""Texts about single cases, as tokens. They are encoded once; training reads them for about half of the samples.

One safetensors file holds the raw tokens of each text, as the encoder returns them. Its header holds the texts' hashes,
so an edited text is encoded again and the others stay. The text space is applied when tokens are read, so new words
do not change the file.
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
    """The hash and the length of one text."""

    hash: str  # of the text
    length: int  # in tokens, before it was cut to MAX_TEXT_TOKENS


class TextsHeader(Record):
    """The record in the header of the file."""

    version: Literal[2] = 2
    encoder: str
    encoder_hash: str | None  # SHA-256 of its weights and vocabulary; None: unknown
    cases: dict[str, Entry]
    upgrades: ClassVar[Upgrades] = {1: lambda fields: fields | {"encoder_hash": None}}


_FILE = TensorFile(
    noun="file of texts",
    header=TextsHeader,
    key="texts",
    missing="this plan reads texts about cases. Put the data set's texts/ back and run tds_plan_and_preprocess again.",
    damaged="Run tds_plan_and_preprocess again.",
)


@dataclass(frozen=True)
class CaseText:
    """The record of one text and its raw tokens (L, d_t)."""

    entry: Entry
    tokens: Tensor


def encode_text(text: str, encoder: TextEncoder) -> CaseText:
    """A text's first `MAX_TEXT_TOKENS` raw tokens, as the encoder returns them."""
    (vectors,) = encoder.encode([text], MAX_TEXT_TOKENS)
    return CaseText(Entry(hash=hash_text(text), length=encoder.length(text)), vectors.tokens)


def update_case_texts(path: Path, texts: Mapping[str, str], encoder: str) -> tuple[str, ...]:
    """Update the file to `texts` (case -> text), encoded by `encoder`. Unchanged texts are not encoded again.

    Without texts the file is deleted. Returns notes for the user. Raises `UserError` if the encoder cannot be loaded.
    """
    if not texts:
        path.unlink(missing_ok=True)
        return ()
    before = _stored(path, encoder)
    kept = {
        case: case_text
        for case, case_text in before.items()
        if case in texts and case_text.entry.hash == hash_text(texts[case])
    }
    new = sorted(set(texts) - set(kept))
    if new:
        loaded = TextEncoder(encoder)
        kept |= {case: encode_text(texts[case], loaded) for case in new}
    if new or len(kept) < len(before):
        _write(path, encoder, kept)
    summary = f"Texts of {len(kept)} cases: {len(new)} encoded, {len(kept) - len(new)} unchanged."
    return (summary, *cut_notes({case: case_text.entry.length for case, case_text in kept.items()}))


def cut_notes(lengths: Mapping[str, int]) -> tuple[str, ...]:
    """A note on the texts that are cut; empty if there are none. `lengths`: case -> tokens of its text."""
    long = sorted(case for case, length in lengths.items() if length > MAX_TEXT_TOKENS)
    if not long:
        return ()
    return (f"These texts are long, so only their first {MAX_TEXT_TOKENS} tokens are read: {listed(long)}.",)


def read_case_texts(path: Path, bank: TextBank, cases: Collection[str]) -> dict[str, Tensor]:
    """The tokens (L, d_t) of each of the `cases` that has a text, in the bank's space.

    Raises `UserError` if the file is missing or damaged, or if the bank has another encoder.
    """
    header, tokens = _read(path, cases)
    if not bank.space.is_of(header.encoder, header.encoder_hash):
        raise UserError(
            f"{path} was made with the text encoder {header.encoder!r}, but the model has {bank.space.encoder!r}. "
            "Run tds_plan_and_preprocess with the model's encoder."
        )
    return {case: bank.space.tokens(raw) for case, raw in tokens.items()}


def _stored(path: Path, encoder: str) -> dict[str, CaseText]:
    """The stored texts by case; empty if the file is missing, damaged, or of another version or encoder."""
    with suppress(UserError):
        header, tokens = _read(path)
        if (header.encoder, header.encoder_hash) == (encoder, encoder_hash(encoder)):
            return {case: CaseText(header.cases[case], raw) for case, raw in tokens.items()}
    return {}


def _write(path: Path, encoder: str, texts: Mapping[str, CaseText]) -> None:
    header = TextsHeader(
        encoder=encoder,
        encoder_hash=encoder_hash(encoder),
        cases={case: case_text.entry for case, case_text in sorted(texts.items())},
    )
    _FILE.write(path, header, {case: case_text.tokens for case, case_text in texts.items()})


def _read(path: Path, cases: Collection[str] | None = None) -> tuple[TextsHeader, dict[str, Tensor]]:
    """The header, and the tokens of each of the `cases` that has a text; `cases` None: of all."""
    return _FILE.read(path, lambda header: [case for case in header.cases if cases is None or case in cases])
