"""`TextBank`: the stored vectors of all phrasings of all labels. Each model has one.

A bank belongs to one `TextSpace`, which has a file of its own. The bank stores the encoder's raw vectors, so phrases
can be added later. The space is applied when vectors are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from plans.errors import UserError, listed
from plans.layout import WordFiles
from plans.raw.prompts import Prompts
from textdiffseg.queries import Queries, Query
from textdiffseg.text.bank_file import Vectors, by_label, read_bank, write_bank
from textdiffseg.text.encoder import MAX_PHRASE_TOKENS, PhraseVectors, TextEncoder
from textdiffseg.text.folder import encoder_hash
from textdiffseg.text.space import TextSpace
from textdiffseg.text.stacking import stack_queries
from textdiffseg.text.words import Words

NEAREST_PHRASES = 3  # shown for an unknown phrase
MAX_EQUAL_DISTANCE = 1e-2  # between standardised vectors that count as equal; their length is about 20


@dataclass(frozen=True)
class TextBank:
    """The phrasings of a model, their raw vectors and their space. Label numbers are 1..N in the order of `labels`."""

    words: Words
    space: TextSpace
    raw: Vectors  # [label - 1][phrasing]
    raw_scan: PhraseVectors | None  # of the scan's description; None: no description
    texts: Mapping[str, Tensor] = field(default_factory=dict)  # case -> tokens (L, d_t) of its text, from `case_texts`

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in label order 1..N."""
        return self.words.labels

    @property
    def phrasings(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each label."""
        return self.words.by_label

    @property
    def width(self) -> int:
        """The width d_t of the vectors."""
        return self.space.width

    def queries(
        self, queried: Sequence[Query], cases: Sequence[str | None] = (), context_labels: Sequence[Query] = ()
    ) -> Queries:
        """The queries of a batch. A sample's tokens are those of its phrasings and of the scan's description.

        Args:
            queried: the queried labels of each sample.
            cases: for each sample the case whose text it reads, or None. A case without a text adds no tokens.
            context_labels: for each sample more labels, whose tokens it reads, too. They get no slot.

        Raises:
            IndexError: the bank lacks a label or a phrasing.
        """
        slots = [[(number, self._phrase(number, index)) for number, index in query] for query in queried]
        phrases = [[self._phrase(number, index).tokens for number, index in query] for query in context_labels]
        return (
            stack_queries(slots, self._scan)
            .with_tokens([torch.cat(tokens) if tokens else None for tokens in phrases])
            .with_tokens([None if case is None else self.texts.get(case) for case in cases])
        )

    def all_labels(self) -> Queries:
        """The queries of one sample with all labels, in their first phrasings."""
        return self.queries([[(number, 0) for number in range(1, len(self.labels) + 1)]])

    def find(self, phrase: str) -> tuple[int, int] | None:
        """(label number, index of the phrasing) of a known phrase; None if it is unknown (see `Words.find`)."""
        return self.words.find(phrase)

    def queries_for(
        self,
        phrases: Sequence[str],
        force: bool = False,
        encoder: TextEncoder | None = None,
        rivals: Sequence[int] = (),
    ) -> Queries:
        """The queries of one sample for a user's phrases. Slot q is phrases[q]; the rivals follow.

        Args:
            phrases: a user's words.
            force: also query unknown phrases. They get the label numbers N+1, N+2, ... and need `encoder`.
            encoder: the bank's own encoder.
            rivals: label numbers that are also queried, in their first phrasings.

        Raises:
            UserError: unknown phrases without `force`, two phrases of one label, or no phrase; all at once.
        """
        matches = [self.find(phrase) for phrase in phrases]
        unknown = [phrase for phrase, match in zip(phrases, matches, strict=True) if match is None]
        self._refuse(phrases, matches, [] if force else unknown, encoder)
        numbers = {phrase: len(self.labels) + 1 + i for i, phrase in enumerate(dict.fromkeys(unknown))}
        slots = []
        for phrase, match in zip(phrases, matches, strict=True):
            if match is None:
                slots.append((numbers[phrase], self.encode(phrase, encoder)))
            else:
                slots.append((match[0], self._phrase(*match)))
        slots += [(number, self._phrase(number, 0)) for number in rivals]
        return stack_queries([slots], self._scan)

    def encode(self, phrase: str, encoder: TextEncoder | None) -> PhraseVectors:
        """The tokens and the vector e_q of an unknown phrase. Raises `UserError` without the bank's own encoder."""
        return self.space.phrase(self._encode([phrase], encoder)[0])

    def with_phrases(self, phrasings: Mapping[str, Sequence[str]], encoder: TextEncoder) -> "TextBank":
        """The bank with more phrasings, which follow the existing ones. The space stays.

        Raises `UserError` for an unknown label, another encoder, and a phrase of another label.
        """
        if unknown := sorted({*phrasings} - {*self.labels}):
            raise UserError(f"{listed(unknown)}: not among the bank's labels, which are {listed(self.labels)}.")
        merged = {name: (*known, *phrasings.get(name, ())) for name, known in self.phrasings.items()}
        Prompts.parse({"scan": self.words.scan, "labels": merged}, "phrases to add")
        new = [[phrase for phrase in phrasings.get(name, ()) if not self.find(phrase)] for name in self.labels]
        raw = iter(self._encode([phrase for phrases in new for phrase in phrases], encoder))
        words = tuple((*known, *more) for known, more in zip(self.words.phrasings, new, strict=True))
        vectors = tuple((*known, *(next(raw) for _ in more)) for known, more in zip(self.raw, new, strict=True))
        bank = replace(self, words=self.words.model_copy(update={"phrasings": words}), raw=vectors)
        bank.refuse_equals()
        return bank

    def refuse_equals(self) -> None:
        """Raise `UserError` if phrases of two labels have the same vector.

        This happens to letters that the encoder does not know.
        """
        flat = [(label, phrase) for label, phrases in enumerate(self.words.phrasings) for phrase in phrases]
        pooled = self.space.pooled_standard.apply(self._known)
        distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # mm rounds too coarsely
        faults = [
            f"prompts.json: {flat[a][1]!r} and {flat[b][1]!r} name two labels, but the text encoder cannot "
            "distinguish them. Reword one."
            for a, b in (distance < MAX_EQUAL_DISTANCE).triu(1).nonzero().tolist()
            if flat[a][0] != flat[b][0]
        ]
        if faults:
            raise UserError(*faults)

    def save(self, files: WordFiles) -> None:
        """Write the space's file, then the bank's."""
        flat = [*(phrase for phrases in self.raw for phrase in phrases), *([self.raw_scan] if self.raw_scan else [])]
        self.space.save(files.space)
        write_bank(files.bank, self.space.hash, self.words, flat)

    @classmethod
    def load(cls, files: WordFiles) -> "TextBank":
        """The bank and its space, read from their files.

        Raises `UserError` if a file is missing, damaged or of an unknown version, or if the bank has another space.
        """
        header, flat = read_bank(files.bank)
        space = TextSpace.load(files.space)
        if header.space != space.hash:
            raise UserError(
                f"{files.bank} belongs to another text space than {files.space.name} beside it. Put two files of the "
                "same model together, or run tds_plan_and_preprocess again."
            )
        return cls(header.words, space, *by_label(header.words, flat))

    @cached_property
    def _known(self) -> Tensor:
        """The raw pooled vectors (n, d_t) of all phrasings."""
        return torch.stack([phrase.pooled for phrases in self.raw for phrase in phrases])

    @cached_property
    def _phrases(self) -> Vectors:
        """The tokens and e_q of each phrasing, in the space."""
        return tuple(tuple(self.space.phrase(phrase) for phrase in phrases) for phrases in self.raw)

    def _encode(self, phrases: list[str], encoder: TextEncoder | None) -> list[PhraseVectors]:
        """The raw vectors of phrases. Raises `UserError` without the bank's own encoder."""
        if encoder is None or not self.space.is_of(encoder.name, encoder_hash(encoder.name)):
            found = f"{encoder.name!r} with other weights or another vocabulary" if encoder else "none"
            raise UserError(
                f"{', '.join(map(repr, phrases))}: not among this model's phrases. New phrases need its text encoder "
                f"{self.space.encoder!r} (found {found})."
            )
        return encoder.encode(phrases)

    def _phrase(self, number: int, index: int) -> PhraseVectors:
        if not 1 <= number <= len(self.labels) or not 0 <= index < len(self.raw[number - 1]):
            raise IndexError(f"label {number}, phrasing {index} is not in the bank of {self.labels}")
        return self._phrases[number - 1][index]

    @cached_property
    def _scan(self) -> PhraseVectors | None:
        """The vectors of the scan's description, in the space."""
        return None if self.raw_scan is None else self.space.phrase(self.raw_scan)

    def _refuse(
        self,
        phrases: Sequence[str],
        matches: Sequence[tuple[int, int] | None],
        unknown: Sequence[str],
        encoder: TextEncoder | None,
    ) -> None:
        """Raise `UserError` for unknown phrases, for two phrases of one label, and if there are no phrases."""
        lines = [self._unknown(phrase, encoder) for phrase in unknown]
        numbers = [match[0] for match in matches if match is not None]
        for number in sorted({number for number in numbers if numbers.count(number) > 1}):
            same = [phrase for phrase, match in zip(phrases, matches, strict=True) if match and match[0] == number]
            prompts = ", ".join(map(repr, same))
            lines.append(f"The prompts {prompts} all mean label {self.labels[number - 1]!r}. Give one of them.")
        if not phrases:
            lines.append(f"No prompt was given. Expected one or more of {', '.join(map(repr, self.labels))}.")
        if lines:
            raise UserError(*lines)

    def _unknown(self, phrase: str, encoder: TextEncoder | None) -> str:
        near = ", ".join(f"{words!r} (label {label})" for words, label in self._nearest(phrase, encoder))
        return (
            f"The prompt {phrase!r} is unknown: this model was not trained with it. The nearest phrases are {near}. "
            "Use one of them, or run yours with --force."
        )

    def _nearest(self, phrase: str, encoder: TextEncoder | None) -> list[tuple[str, str]]:
        """The nearest (phrasing, label name) pairs: by meaning with the bank's encoder, else by spelling."""
        known = [(words, name) for name, all_words in self.phrasings.items() for words in all_words]
        if encoder is None or not self.space.is_of(encoder.name, encoder_hash(encoder.name)):
            return self.words.nearest_spelling(phrase, NEAREST_PHRASES)
        closeness = torch.cosine_similarity(self._known, encoder.encode([phrase], MAX_PHRASE_TOKENS)[0].pooled[None])
        return [known[i] for i in closeness.argsort(descending=True)[:NEAREST_PHRASES].tolist()]


def build_bank(prompts: Prompts, labels: tuple[str, ...], encoder: TextEncoder) -> TextBank:
    """The bank of `labels` (in label order 1..N) with the vectors of all phrasings and of the scan's description.

    Its space is made from these phrases and the word "background". A long description is cut. Raises `UserError` for
    phrases that are too long, and if the encoder cannot distinguish phrases of two labels.
    """
    words = Words(scan=prompts.scan, labels=labels, phrasings=tuple(tuple(prompts.labels[name]) for name in labels))
    flat = encoder.encode([phrase for phrasings in words.phrasings for phrase in phrasings])
    *scan, background = encoder.encode([*([words.scan] if words.scan.strip() else []), "background"], MAX_PHRASE_TOKENS)
    raw, raw_scan = by_label(words, [*flat, *scan])
    space = TextSpace.of(encoder.name, raw, [*scan, background], encoder_hash(encoder.name))
    bank = TextBank(words, space, raw, raw_scan)
    bank.refuse_equals()
    return bank
