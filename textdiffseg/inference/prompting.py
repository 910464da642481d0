"""What a prediction is asked for, which value each answer gets in the file, and what is told of each case.

Known prompts are read beside the model's other labels, which compete for the voxels and are left out of the answer:
asked for alone, look-alikes are mistaken for each other more often (docs/method.md). Labels of which no training case
was known beside theirs do not compete (`Plan.rivals`): between them the network has not learned to choose.
`Readout.rivals` knows the labels that compete.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from plans.errors import UserError, is_printable, listed
from plans.layout import BUNDLED
from plans.names import normalise
from plans.plan import Plan
from plans.prompts import Answers
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import CaseText, encode_text
from textdiffseg.text.encoder import TextEncoder

MIN_COSINE = 0.999  # of one phrase's vectors by one encoder on two machines


@dataclass(frozen=True)
class Selection:
    """One entry an answer; `values` are what the output file holds."""

    queries: Queries  # of one sample; the first slots are the answers', those after them rivals
    names: tuple[str, ...]
    values: tuple[int, ...]
    prompts: tuple[str, ...] = ()  # in the user's words; empty: all labels
    forced: bool = False  # some prompt is none that the model was trained with
    answers: tuple[tuple[str, int], ...] = ()  # name and value of each prompt, where the user chose them

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of each answer the number of its label, beyond those of the labels for a forced prompt."""
        return tuple(self.queries.labels[0, : len(self.names)].tolist())


def select_labels(
    plan: Plan, bank: TextBank, prompts: Sequence[str] = (), force: bool = False, text_encoder: str | None = None
) -> Selection:
    """All labels, or those that `prompts` name.

    Known prompts keep their labels' values. Where `force` lets an unknown one run, values count 1..n in the order
    of the prompts. Raises `UserError` with the three nearest phrases for an unknown prompt without `force`.
    """
    names, values = zip(*((label.name, label.value) for label in plan.labels), strict=True)
    if not prompts:
        return Selection(bank.all_labels(), names, values)
    if odd := [prompt for prompt in prompts if not is_printable(prompt)]:
        raise UserError(*(f"Prompt {prompt!r} holds characters that cannot be printed. Remove them." for prompt in odd))
    if any(not normalise(prompt) for prompt in prompts):
        raise UserError(f"A prompt has no words. Give the words of a label: {listed(names)}.")
    found = [bank.find(prompt) for prompt in prompts]
    forced = force and None in found
    phrases = readout_of(plan).ordered(prompts, found)
    queries = _queries(plan, bank, phrases, force, text_encoder)
    if forced:
        return Selection(queries, phrases, tuple(range(1, len(phrases) + 1)), phrases, forced=True)
    numbers = [number - 1 for number in queries.labels[0, : len(phrases)].tolist()]
    return Selection(queries, tuple(names[n] for n in numbers), tuple(values[n] for n in numbers), phrases)


def select_answers(
    plan: Plan, bank: TextBank, answers: Answers, force: bool = False, text_encoder: str | None = None
) -> Selection:
    """The phrases of a file, each under the name and the value that the file gives it; `UserError` as for `ask`."""
    prompts = tuple(answer.phrase for answer in answers.labels.values())
    queries = _queries(plan, bank, prompts, force, text_encoder)
    pairs = tuple((name, answer.value) for name, answer in answers.labels.items())
    names, values = zip(*pairs, strict=True)
    forced = any(bank.find(prompt) is None for prompt in prompts)
    return Selection(queries, names, values, prompts, forced, pairs)


def _queries(plan: Plan, bank: TextBank, prompts: Sequence[str], force: bool, text_encoder: str | None) -> Queries:
    """The prompts, and their rivals unless a prompt is unknown, which might mean one of them."""
    found = [bank.find(prompt) for prompt in prompts]
    known = [match for match in found if match is not None]
    if len(known) == len(found):
        rivals = readout_of(plan).rivals([number for number, _ in known])
        return bank.queries_for(prompts, rivals=rivals)
    if force and not plan.classifies_words:
        raise UserError(
            f"--force: a model of preset {plan.preset} has one channel a label and cannot look for other words. Ask "
            f"for {', '.join(bank.labels)}."
        )
    return bank.queries_for(prompts, force, _encoder(bank, force, text_encoder))


def caution(plan: Plan, selection: Selection) -> str | None:
    """What has to be known of labels that are asked for together and were never learned side by side."""
    numbers = {number for number in selection.numbers if number <= len(plan.labels)}
    if not plan.known_together or any(numbers <= {*known} for known in plan.known_together):
        return None
    sets = [" and ".join(plan.labels[number - 1].name for number in known) for known in plan.known_together]
    return (
        f"This model learned {listed(sets, most=3)} on different scans, never all of them side by side: it may find in "
        "a scan what that cannot hold. Ask for what it can with --prompt."
    )


def encode_texts(
    plan: Plan, bank: TextBank, texts: Mapping[str, str], text_encoder: str | None = None
) -> dict[str, CaseText]:
    """The cases' own texts in the model's space; `UserError` if the model never read any, or without its encoder."""
    if not texts:
        return {}
    if not plan.reads_texts:
        raise UserError(
            "--texts: this model does not read texts of cases; it was trained without any, or its preset "
            f"({plan.preset}) reads no words. Leave --texts out."
        )
    encoder = encoder_of(bank, text_encoder)
    encoded = {case: encode_text(text, encoder) for case, text in texts.items()}
    return {case: replace(one, tokens=bank.space.tokens(one.tokens)) for case, one in encoded.items()}


def encoder_of(bank: TextBank, text_encoder: str | None) -> TextEncoder:
    """The encoder that made a bank: the bundled one, or one that the user names (`text_encoder`).

    A model comes from anywhere, and an encoder that it names may be any folder or any model of the hub. So it is loaded
    only where the user names it, too, and then it must give the bank's own vectors. `UserError` otherwise.
    """
    name = bank.space.encoder
    if name == BUNDLED:
        return TextEncoder(BUNDLED)
    if text_encoder is None:
        raise UserError(
            f"This model's words were encoded with {name!r}, which is not loaded unasked. If you trust it, give it, or "
            f"a folder that holds it: --text-encoder {shlex.quote(name)}."
        )
    encoder = TextEncoder(text_encoder, name)
    (found,), known = encoder.encode([bank.words.phrasings[0][0]]), bank.raw[0][0]
    same = found.pooled.shape == known.pooled.shape
    if not same or torch.cosine_similarity(found.pooled, known.pooled, dim=0) < MIN_COSINE:
        raise UserError(
            f"--text-encoder {text_encoder}: it gives other vectors than {name!r}, which made this model's words. Give "
            "that one."
        )
    return encoder


def _encoder(bank: TextBank, force: bool, text_encoder: str | None) -> TextEncoder | None:
    """The bank's encoder for a prompt that is not known: to run it, or to report which phrases mean nearly the same."""
    try:
        return encoder_of(bank, text_encoder)
    except UserError:
        if force or text_encoder is not None:
            raise
        return None  # nearest by spelling will do
