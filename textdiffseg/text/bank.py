"""`TextBank`: the cached vectors of every phrasing of every label; it travels with a model.

A bank belongs to one `TextSpace`, which has a file of its own. The bank holds vectors as the encoder gives them, so
that phrases can be added later; the space is applied where vectors are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from plans.errors import UserError, listed
from plans.layout import WordFiles
from plans.prompts import Prompts
from textdiffseg.queries import Queries, Query
from textdiffseg.text.bank_file import read_bank, write_bank
from textdiffseg.text.encoder import PhraseVectors, TextEncoder
from textdiffseg.text.folder import encoder_hash
from textdiffseg.text.space import TextSpace
from textdiffseg.text.words import Words

NEAREST = 3  # phrases that are shown for one that is not known
EQUAL = 1e-2  # distance of standardised vectors, which are some twenty long
Vectors = tuple[tuple[PhraseVectors, ...], ...]


@dataclass(frozen=True)
class TextBank:
    """The words of a model, their raw vectors and their space. Label numbers are 1..N in the order of `labels`."""

    words: Words
    space: TextSpace
    raw: Vectors  # [label - 1][phrasing], as the encoder gives them
    raw_scan: PhraseVectors | None  # of the scan's description; None: there is none
    texts: Mapping[str, Tensor] = field(default_factory=dict)  # (L, d_t) by case; of `case_texts`, not in this file

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in label order 1..N."""
        return self.words.labels

    @property
    def phrasings(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each label."""
        return self.words.by_label

    @property
    def width(self) -> int:
        """d_t."""
        return self.space.width

    def queries(self, asked: Sequence[Query], told: Sequence[str | None] = ()) -> Queries:
        """`Queries` of a batch; the tokens of a sample are those of its phrases, of the scan's description and, where
        `told` names a case that has one, of that case's text.

        Raises `IndexError` for a label or phrasing that the bank does not hold.
        """
        slots = [[(number, self._phrase(number, which)) for number, which in one] for one in asked]
        return self._assemble(slots).with_tokens([None if case is None else self.texts.get(case) for case in told])

    def all_labels(self) -> Queries:
        """One sample that asks for every label, in its first phrasing."""
        return self.queries([[(number, 0) for number in range(1, len(self.labels) + 1)]])

    def find(self, phrase: str) -> tuple[int, int] | None:
        """(label number, phrasing) of an exact match after normalisation; a label's name means its first phrasing."""
        return self.words.find(phrase)

    def queries_for(
        self,
        phrases: Sequence[str],
        force: bool = False,
        encoder: TextEncoder | None = None,
        rivals: Sequence[int] = (),
    ) -> Queries:
        """One sample that asks for `phrases`; slot q of the result is phrases[q].

        The labels numbered `rivals` follow, in their first phrasings.

        Known phrases run with their own vectors. Unknown ones are a `UserError` (all at once), or with `force` run
        with the vectors of `encode`, numbered N+1, N+2, ... `encoder` must then be given, and be the bank's.
        """
        found = [self.find(phrase) for phrase in phrases]
        unknown = [phrase for phrase, match in zip(phrases, found, strict=True) if match is None]
        self._refuse(phrases, found, [] if force else unknown, encoder)
        numbers = {phrase: len(self.labels) + 1 + i for i, phrase in enumerate(dict.fromkeys(unknown))}
        slots = []
        for phrase, match in zip(phrases, found, strict=True):
            if match is None:
                slots.append((numbers[phrase], self.encode(phrase, encoder)))
            else:
                slots.append((match[0], self._phrase(*match)))
        slots += [(number, self._phrase(number, 0)) for number in rivals]
        return self._assemble([slots])

    def encode(self, phrase: str, encoder: TextEncoder | None) -> PhraseVectors:
        """The tokens and the vector e_q of a phrase that the bank does not hold."""
        return self.space.phrase(self._encode([phrase], encoder)[0])

    def with_phrases(self, phrasings: Mapping[str, Sequence[str]], encoder: TextEncoder) -> "TextBank":
        """A bank of the same space with more phrasings of its labels, after those that it has.

        Raises `UserError` for a label or an encoder that is not the bank's, and for a phrase of another label.
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
        """Raise `UserError` where phrases of two labels have one vector.

        Letters that an encoder does not know look alike to it, as does what follows the tokens that it reads.
        """
        flat = [(label, phrase) for label, phrases in enumerate(self.words.phrasings) for phrase in phrases]
        pooled = self.space.pooled_standard.apply(self._known)
        apart = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # whose rounding is coarse
        faults = [
            f"prompts.json: {flat[a][1]!r} and {flat[b][1]!r} name two labels and are one to the text encoder. "
            "Reword one."
            for a, b in (apart < EQUAL).triu(1).nonzero().tolist()
            if flat[a][0] != flat[b][0]
        ]
        if faults:
            raise UserError(*faults)

    def save(self, files: WordFiles) -> None:
        """Write the space, then the bank that refers to it."""
        flat = [*(one for phrases in self.raw for one in phrases), *([self.raw_scan] if self.raw_scan else [])]
        self.space.save(files.space)
        write_bank(files.bank, self.space.hash, self.words, flat)

    @classmethod
    def load(cls, files: WordFiles) -> "TextBank":
        """Read a bank and its space.

        Raises `UserError` where a file is missing, damaged or of a version that is not read, and where the bank
        belongs to another space.
        """
        header, flat = read_bank(files.bank)
        space = TextSpace.load(files.space)
        if header.space != space.hash:
            raise UserError(
                f"{files.bank} belongs to another text space than {files.space.name} beside it: put the two files of "
                "one model together, or run tds_plan_and_preprocess again."
            )
        return cls(header.words, space, *_nest(header.words, flat))

    @cached_property
    def _known(self) -> Tensor:
        """The raw pooled vectors of all phrases of labels (n, d_t)."""
        return torch.stack([one.pooled for phrases in self.raw for one in phrases])

    @cached_property
    def _asked(self) -> Vectors:
        """Tokens and e_q of each phrase."""
        return tuple(tuple(self.space.phrase(one) for one in phrases) for phrases in self.raw)

    def _encode(self, phrases: list[str], encoder: TextEncoder | None) -> list[PhraseVectors]:
        """Raw vectors, of the bank's own encoder alone."""
        if encoder is None or not self.space.is_of(encoder.name, encoder_hash(encoder.name)):
            found = f"{encoder.name!r} with other weights or another vocabulary" if encoder else "none"
            raise UserError(
                f"{', '.join(map(repr, phrases))} is not among this model's phrases, and its text encoder "
                f"{self.space.encoder!r} is needed for its vectors (found {found})."
            )
        return encoder.encode(phrases)

    def _phrase(self, number: int, which: int) -> PhraseVectors:
        if not 1 <= number <= len(self.labels) or not 0 <= which < len(self.raw[number - 1]):
            raise IndexError(f"label {number}, phrasing {which} is not in the bank of {self.labels}")
        return self._asked[number - 1][which]

    def _assemble(self, samples: Sequence[Sequence[tuple[int, PhraseVectors]]]) -> Queries:
        scan = [] if self.raw_scan is None else [self.space.tokens(self.raw_scan.tokens)]
        tokens = [torch.cat([*(phrase.tokens for _, phrase in one), *scan]) for one in samples]
        slots, length = max(len(one) for one in samples), max(len(one) for one in tokens)
        labels = torch.zeros(len(samples), slots, dtype=torch.int64)
        vectors = torch.zeros(len(samples), slots, self.width)
        padded = torch.zeros(len(samples), length, self.width)
        mask = torch.zeros(len(samples), length, dtype=torch.bool)
        for row, one in enumerate(samples):
            for slot, (number, phrase) in enumerate(one):
                labels[row, slot], vectors[row, slot] = number, phrase.pooled
            padded[row, : len(tokens[row])], mask[row, : len(tokens[row])] = tokens[row], True
        return Queries(labels, vectors, padded, mask)

    def _refuse(
        self,
        phrases: Sequence[str],
        found: Sequence[tuple[int, int] | None],
        unknown: Sequence[str],
        encoder: TextEncoder | None,
    ) -> None:
        lines = [self._unknown(phrase, encoder) for phrase in unknown]
        numbers = [match[0] for match in found if match is not None]
        for number in sorted({number for number in numbers if numbers.count(number) > 1}):
            same = [phrase for phrase, match in zip(phrases, found, strict=True) if match and match[0] == number]
            lines.append(f"The prompts {same} all mean label {self.labels[number - 1]!r}: ask for it once.")
        if not phrases:
            lines.append(f"No prompt was given: expected one or more of {', '.join(map(repr, self.labels))}.")
        if lines:
            raise UserError(*lines)

    def _unknown(self, phrase: str, encoder: TextEncoder | None) -> str:
        near = ", ".join(f"{words!r} (label {label})" for words, label in self._nearest(phrase, encoder))
        return (
            f"Prompt {phrase!r} is not one that this model was trained with; the nearest are {near}. "
            "Use one of those, or --force to run the phrase as it is."
        )

    def _nearest(self, phrase: str, encoder: TextEncoder | None) -> list[tuple[str, str]]:
        """The nearest phrasings and their labels: by meaning with the bank's encoder, else by spelling."""
        known = [(words, name) for name, all_words in self.phrasings.items() for words in all_words]
        if encoder is None or not self.space.is_of(encoder.name, encoder_hash(encoder.name)):
            return self.words.nearest_spelling(phrase, NEAREST)
        closeness = torch.cosine_similarity(self._known, encoder.encode([phrase])[0].pooled[None])
        return [known[i] for i in closeness.argsort(descending=True)[:NEAREST].tolist()]


def build_bank(prompts: Prompts, labels: tuple[str, ...], encoder: TextEncoder) -> TextBank:
    """Encode every phrasing of `labels` (in label order 1..N), the scan's description and the word "background".

    The space is made from the same phrases. Raises `UserError` for phrases of two labels that the encoder does not
    tell apart.
    """
    words = Words(scan=prompts.scan, labels=labels, phrasings=tuple(tuple(prompts.labels[name]) for name in labels))
    phrases = [phrase for one in words.phrasings for phrase in one]
    phrases += [words.scan] if words.scan.strip() else []
    *flat, background = encoder.encode([*phrases, "background"])
    raw, scan = _nest(words, flat)
    space = TextSpace.of(encoder.name, raw, [*([scan] if scan else []), background], encoder_hash(encoder.name))
    bank = TextBank(words, space, raw, scan)
    bank.refuse_equals()
    return bank


def _nest(words: Words, flat: Iterable[PhraseVectors]) -> tuple[Vectors, PhraseVectors | None]:
    """The vectors by label and phrasing, and those of the scan's description."""
    rest = iter(flat)
    vectors = tuple(tuple(next(rest) for _ in phrasings) for phrasings in words.phrasings)
    return vectors, next(rest, None)
