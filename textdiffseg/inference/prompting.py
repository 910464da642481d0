"""The queries of a prediction: labels or phrases, their values in the output file, and case texts.

The first slots of a query are the answers. The slots after them are rivals: other labels of the model that compete for
voxels and are not written. Without rivals, similar structures are confused more often (docs/history.md). Labels that no
training case knows together are not rivals (`Plan.rivals`): the network has not learned to choose between them.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from plans.errors import UserError, is_printable, listed
from plans.file_names import BUNDLED
from plans.names import normalise
from plans.plan import Plan
from plans.raw.prompts import PromptFile
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import CaseText, encode_text
from textdiffseg.text.encoder import TextEncoder

MIN_COSINE = 0.999  # between vectors of one phrase by one encoder on two machines


@dataclass(frozen=True)
class Selection:
    """The queries and their answers. `names` and `values` have one entry per answer."""

    queries: Queries  # of one sample; the first slots are answers, the others rivals
    names: tuple[str, ...]
    values: tuple[int, ...]  # in the output file
    prompts: tuple[str, ...] = ()  # the user's phrases; empty: all labels
    forced: bool = False  # the model was not trained with some of the prompts
    user_labels: tuple[tuple[str, int], ...] = ()  # name and value of each prompt, if the user chose them

    @property
    def numbers(self) -> tuple[int, ...]:
        """The label number of each answer. Forced prompts have numbers above those of the labels."""
        return tuple(self.queries.labels[0, : len(self.names)].tolist())

    def is_of_all(self, plan: Plan) -> bool:
        """Whether every label of the plan is among the answers."""
        return {*self.numbers} >= {*range(1, 1 + len(plan.labels))}


def slots_of_all(plan: Plan, numbers: Sequence[int]) -> list[list[int]]:
    """For each slot 1 to Q, the slots whose voxels belong to its label. If labels overlap, there may be several.

    `numbers`: the label number of each slot. A forced prompt has one above the label numbers, and only its own slot.
    """
    written = dict(enumerate(plan.written_numbers, start=1))
    values = dict(enumerate(map(set, plan.value_numbers), start=1))
    members = []
    for slot, number in enumerate(numbers, start=1):
        label_values = values.get(number, set())
        slots = enumerate(numbers, start=1)
        members.append(
            [member for member, member_number in slots if member == slot or written.get(member_number) in label_values]
        )
    return members


def select_labels(
    plan: Plan, bank: TextBank, prompts: Sequence[str] = (), force: bool = False, text_encoder: str | None = None
) -> Selection:
    """The selection of all labels, or of the labels that `prompts` name.

    Known prompts keep the values of their labels. If `force` allows an unknown prompt, the values are 1..n in the order
    of the prompts. Raises `UserError` with the three nearest phrasings for an unknown prompt without `force`.
    """
    names, values = zip(*((label.name, label.value) for label in plan.labels), strict=True)
    if not prompts:
        return Selection(bank.all_labels(), names, values)
    if bad := [prompt for prompt in prompts if not is_printable(prompt)]:
        raise UserError(*(f"Prompt {prompt!r} holds characters that cannot be printed. Remove them." for prompt in bad))
    if any(not normalise(prompt) for prompt in prompts):
        raise UserError(f"A prompt has no words. Give the words of a label: {listed(names)}.")
    matches = [bank.find(prompt) for prompt in prompts]
    forced = force and None in matches
    phrases = tuple(prompts[index] for index in readout_of(plan).slot_order(matches))
    queries = _queries(plan, bank, phrases, force, text_encoder)
    if forced:
        return Selection(queries, phrases, tuple(range(1, len(phrases) + 1)), phrases, forced=True)
    numbers = [number - 1 for number in queries.labels[0, : len(phrases)].tolist()]
    return Selection(queries, tuple(names[n] for n in numbers), tuple(values[n] for n in numbers), phrases)


def select_answers(
    plan: Plan, bank: TextBank, answers: PromptFile, force: bool = False, text_encoder: str | None = None
) -> Selection:
    """The selection of a file's phrases, with the file's names and values. `UserError` as for `select_labels`.

    Labels that overlap are in the order of the data set, whatever the order of the file.
    """
    phrases = [answer.phrase for answer in answers.labels.values()]
    order = readout_of(plan).slot_order([bank.find(phrase) for phrase in phrases])
    prompts = tuple(phrases[index] for index in order)
    queries = _queries(plan, bank, prompts, force, text_encoder)
    named = [(name, answer.value) for name, answer in answers.labels.items()]
    pairs = tuple(named[index] for index in order)
    names, values = zip(*pairs, strict=True)
    forced = any(bank.find(prompt) is None for prompt in prompts)
    return Selection(queries, names, values, prompts, forced, pairs)


def _queries(plan: Plan, bank: TextBank, prompts: Sequence[str], force: bool, text_encoder: str | None) -> Queries:
    """The queries of prompts and rivals. With an unknown prompt there are no rivals: it may mean one of them."""
    matches = [bank.find(prompt) for prompt in prompts]
    known = [match for match in matches if match is not None]
    if len(known) == len(matches):
        rivals = readout_of(plan).rivals([number for number, _ in known])
        return bank.queries_for(prompts, rivals=rivals)
    if force and not plan.classifies_words:
        raise UserError(
            f"--force: a model of preset {plan.preset} has one channel per label and cannot segment other phrases. "
            f"Use {', '.join(bank.labels)}."
        )
    return bank.queries_for(prompts, force, _encoder(bank, force, text_encoder))


def caution(plan: Plan, selection: Selection) -> str | None:
    """A note if labels are queried together that no training case knows together, else None."""
    numbers = {number for number in selection.numbers if number <= len(plan.labels)}
    if not plan.known_together or any(numbers <= {*known} for known in plan.known_together):
        return None
    sets = [" and ".join(plan.labels[number - 1].name for number in known) for known in plan.known_together]
    return (
        f"This model learned {listed(sets, most=3)} on different scans, never all on one scan. It may report "
        "structures that this scan cannot contain. Limit it with --prompt."
    )


def encode_texts(
    plan: Plan, bank: TextBank, texts: Mapping[str, str], text_encoder: str | None = None
) -> dict[str, CaseText]:
    """Case texts, encoded for the model. `UserError` if it was trained without texts, or without its encoder."""
    if not texts:
        return {}
    if not plan.reads_texts:
        raise UserError(
            "--texts: this model does not read case texts. It was trained without texts, or its preset "
            f"({plan.preset}) does not read words. Leave --texts out, and the texts of a list."
        )
    encoder = encoder_of(bank, text_encoder)
    encoded = {case: encode_text(text, encoder) for case, text in texts.items()}
    return {case: replace(text, tokens=bank.space.tokens(text.tokens)) for case, text in encoded.items()}


def encoder_of(bank: TextBank, text_encoder: str | None) -> TextEncoder:
    """The text encoder of a bank: the bundled one, or `text_encoder`. `UserError` if it is missing or another one.

    A model may come from an unknown source, and its encoder may be any folder or hub model. It is therefore loaded only
    if the user names it, too. It must then return the vectors that are stored in the bank.
    """
    name = bank.space.encoder
    if name == BUNDLED:
        return TextEncoder(BUNDLED)
    if text_encoder is None:
        raise UserError(
            f"This model's words were encoded with {name!r}, which is not loaded by itself. If you trust it, give "
            f"it or a folder that holds it: --text-encoder {shlex.quote(name)}."
        )
    encoder = TextEncoder(text_encoder, name)
    stored = bank.raw[0][0]
    (encoded,) = encoder.encode([bank.words.phrasings[0][0]], len(stored.tokens))  # older banks hold cut phrases
    same = encoded.pooled.shape == stored.pooled.shape
    if not same or torch.cosine_similarity(encoded.pooled, stored.pooled, dim=0) < MIN_COSINE:
        raise UserError(
            f"--text-encoder {text_encoder}: its vectors differ from those of {name!r}, which encoded this model's "
            f"words. Give {name!r}."
        )
    return encoder


def _encoder(bank: TextBank, force: bool, text_encoder: str | None) -> TextEncoder | None:
    """The bank's encoder for an unknown prompt: to run it, or to report the nearest phrasings. None: not loaded."""
    try:
        return encoder_of(bank, text_encoder)
    except UserError:
        if force or text_encoder is not None:
            raise
        return None  # the nearest phrasings by spelling are enough
