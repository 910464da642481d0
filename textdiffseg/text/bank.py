"""`TextBank`: the cached vectors of every phrasing of every label; it travels with a model.

Vectors are standardised per dimension over the bank's own phrases and the word "background", and those of the labels
projected, so that wordings of one meaning lie close together (`space.projection`). Statistics and projection stay in
the file, so that a phrase encoded later lands in the same space. One safetensors file holds everything, with the words
as JSON in its header.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from plans.errors import UserError
from plans.prompts import Prompts
from textdiffseg.files import write_atomically
from textdiffseg.queries import Queries, Query
from textdiffseg.text.encoder import PhraseVectors, TextEncoder
from textdiffseg.text.space import Standard, projection
from textdiffseg.text.words import Words

NEAREST = 3  # phrases that are shown for one that is not known
EQUAL = 1e-2  # distance of standardised vectors, which are some twenty long
Vectors = tuple[tuple[PhraseVectors, ...], ...]


@dataclass(frozen=True)
class TextBank:
    """The words of a model and their standardised vectors. Label numbers are 1..N in the order of `labels`."""

    words: Words
    vectors: Vectors  # [label - 1][phrasing], standardised
    scan: PhraseVectors | None  # the scan's description, standardised
    token_standard: Standard
    pooled_standard: Standard
    projection: Tensor  # (d_t, d_t), which takes a standardised pooled vector to e_q
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
        return len(self.pooled_standard.mean)

    def queries(self, asked: Sequence[Query], told: Sequence[str | None] = ()) -> Queries:
        """`Queries` of a batch; the tokens of a sample are those of its phrases, of the scan's description and, where
        `told` names a case that has one, of that case's text.

        Raises `IndexError` for a label or phrasing that the bank does not hold.
        """
        slots = [[(number, self._phrase(number, which)) for number, which in one] for one in asked]
        return self._assemble(slots).with_tokens([self.texts.get(case) for case in told])

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
        if encoder is None or encoder.name != self.words.encoder:
            raise UserError(
                f"{phrase!r} is not among this model's phrases, and its text encoder {self.words.encoder!r} is "
                f"needed for its vectors (found {encoder.name if encoder else 'none'!r})."
            )
        return self._mapped(_standardise(encoder.encode([phrase])[0], self.token_standard, self.pooled_standard))

    def save(self, path: Path) -> None:
        """Write one safetensors file, under a temporary name first."""
        # serialised here, as safetensors' own writer does not say where the disk is full
        write_atomically(path, serialise(self._tensors(), metadata={"words": self.words.model_dump_json()}))

    @classmethod
    def load(cls, path: Path) -> "TextBank":
        """Read a bank; `UserError` names the file if it is missing, truncated or of another version."""
        tensors, words = _read(Path(path))
        standards = (
            Standard(tensors["token_mean"], tensors["token_std"]),
            Standard(tensors["pooled_mean"], tensors["pooled_std"]),
        )
        tokens = tensors["tokens"].split(words.lengths)
        flat = [PhraseVectors(*pair) for pair in zip(tokens, tensors["pooled"], strict=True)]
        return cls(words, *_nest(words, flat), *standards, tensors["projection"])

    @cached_property
    def _known(self) -> Tensor:
        """The pooled vectors of all phrases of labels (n, d_t)."""
        return torch.stack([one.pooled for phrases in self.vectors for one in phrases])

    @cached_property
    def _asked(self) -> Vectors:
        """`vectors` as they are asked for, with e_q in place of the standardised pooled vector."""
        return tuple(tuple(self._mapped(one) for one in phrases) for phrases in self.vectors)

    def _mapped(self, standardised: PhraseVectors) -> PhraseVectors:
        return replace(standardised, pooled=standardised.pooled @ self.projection)

    def _phrase(self, number: int, which: int) -> PhraseVectors:
        if not 1 <= number <= len(self.labels) or not 0 <= which < len(self.vectors[number - 1]):
            raise IndexError(f"label {number}, phrasing {which} is not in the bank of {self.labels}")
        return self._asked[number - 1][which]

    def _assemble(self, samples: Sequence[Sequence[tuple[int, PhraseVectors]]]) -> Queries:
        scan = [self.scan.tokens] if self.scan is not None else []
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

    def _refuse(self, phrases, found, unknown, encoder) -> None:
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
        if encoder is None or encoder.name != self.words.encoder:
            return self.words.nearest_spelling(phrase, NEAREST)
        rows = self.pooled_standard.undo(self._known)
        closeness = torch.cosine_similarity(rows, encoder.encode([phrase])[0].pooled[None])
        return [known[i] for i in closeness.argsort(descending=True)[:NEAREST].tolist()]

    def _tensors(self) -> dict[str, Tensor]:
        flat = [one for phrases in self.vectors for one in phrases] + ([self.scan] if self.scan else [])
        return {
            "tokens": torch.cat([one.tokens for one in flat]),
            "pooled": torch.stack([one.pooled for one in flat]),
            "token_mean": self.token_standard.mean,
            "token_std": self.token_standard.std,
            "pooled_mean": self.pooled_standard.mean,
            "pooled_std": self.pooled_standard.std,
            "projection": self.projection,
        }


def build_bank(prompts: Prompts, labels: tuple[str, ...], encoder: TextEncoder) -> TextBank:
    """Encode every phrasing of `labels` (in label order 1..N), the scan's description and the word "background".

    Raises `UserError` for phrases of two labels that the encoder does not tell apart.
    """
    phrasings = tuple(tuple(prompts.labels[name]) for name in labels)
    phrases = [phrase for one in phrasings for phrase in one]
    phrases += [prompts.scan] if prompts.scan.strip() else []
    raw = encoder.encode([*phrases, "background"])
    token_standard = Standard.of(torch.cat([one.tokens for one in raw]))
    pooled_standard = Standard.of(torch.stack([one.pooled for one in raw]))
    flat = [_standardise(one, token_standard, pooled_standard) for one in raw[:-1]]
    words = Words(
        encoder=encoder.name,
        scan=prompts.scan,
        labels=labels,
        phrasings=phrasings,
        lengths=tuple(len(one.tokens) for one in flat),
    )
    vectors, scan = _nest(words, flat)
    _refuse_equals(phrasings, vectors)
    onto = projection([torch.stack([one.pooled for one in phrases]) for phrases in vectors])
    return TextBank(words, vectors, scan, token_standard, pooled_standard, onto)


def _refuse_equals(phrasings: tuple[tuple[str, ...], ...], vectors: Vectors) -> None:
    """Letters that an encoder does not know all look alike to it, as does what comes after the tokens that it reads."""
    flat = [(label, phrase) for label, phrases in enumerate(phrasings) for phrase in phrases]
    pooled = torch.stack([one.pooled for phrases in vectors for one in phrases])
    apart = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # whose rounding is coarse
    equal = (apart < EQUAL).triu(1).nonzero().tolist()
    faults = [
        f"prompts.json: {flat[a][1]!r} and {flat[b][1]!r} name two labels and are one to the text encoder. Reword one."
        for a, b in equal
        if flat[a][0] != flat[b][0]
    ]
    if faults:
        raise UserError(*faults)


def _standardise(raw: PhraseVectors, tokens: Standard, pooled: Standard) -> PhraseVectors:
    return PhraseVectors(tokens.apply(raw.tokens), pooled.apply(raw.pooled))


def _nest(words: Words, flat: list[PhraseVectors]) -> tuple[Vectors, PhraseVectors | None]:
    """The vectors by label and phrasing, and those of the scan's description."""
    rest = iter(flat)
    vectors = tuple(tuple(next(rest) for _ in phrasings) for phrasings in words.phrasings)
    return vectors, next(rest, None)


def _read(path: Path) -> tuple[dict[str, Tensor], Words]:
    """The tensors and the words of a bank's file, checked against each other."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected the text bank that tds_plan_and_preprocess writes.")
    names = ("tokens", "pooled", "token_mean", "token_std", "pooled_mean", "pooled_std", "projection")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("words", "null"))
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no readable text bank ({error}): run tds_plan_and_preprocess again.") from None
    words = Words.parse(header, str(path))
    phrases = sum(len(one) for one in words.phrasings) + bool(words.scan.strip())
    fits = len(words.labels) == len(words.phrasings) and phrases == len(words.lengths) == len(tensors["pooled"])
    if not fits or sum(words.lengths) != len(tensors["tokens"]):
        raise UserError(f"{path}: its words and its vectors differ in number: run tds_plan_and_preprocess again.")
    return tensors, words
