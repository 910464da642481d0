"""The words of a data set as vectors: which text encoder is used, and the files that planning writes."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from plans.errors import UserError
from plans.file_names import BUNDLED
from plans.layout import PreprocessedFolder
from plans.paper import ENCODER, VARIANTS
from plans.plan import TextPlan
from plans.presets import Preset
from plans.prompts import Prompts
from textdiffseg.text.folder import encoder_hash, width_of


def encoders_of(wanted: str | None, preset: Preset) -> tuple[str, ...]:
    """The text encoder and, where the user has not named it, what may stand in for it."""
    if wanted is not None:
        return (wanted,)
    return (ENCODER, BUNDLED) if preset in VARIANTS else (BUNDLED,)


def text_plan(
    encoders: Sequence[str], bank: Future[tuple[str, int]], preset: Preset, of_cases: bool = False
) -> TextPlan:
    """The encoder and the length of its vectors, from its folder if that says it, else from the finished bank."""
    encoder, width = encoders[0], None
    if len(encoders) == 1 and not bank.done():
        width = width_of(encoder)
    if width is None:
        encoder, width = bank.result()
    wanted = ENCODER if preset in VARIANTS and encoder == BUNDLED else None
    return TextPlan(encoder=encoder, width=width, stands_in_for=wanted, of_cases=of_cases)


def write_words(
    names: tuple[str, ...], prompts: Prompts, encoders: Sequence[str], folder: PreprocessedFolder, preset: Preset
) -> tuple[str, int]:
    """Write text bank and text space of the first encoder that can be had, unless those of the same words are there.

    Returns the encoder and the vectors' width.
    """
    from textdiffseg.text.bank import TextBank, build_bank
    from textdiffseg.text.encoder import TextEncoder

    for place, name in enumerate(encoders):
        files, wanted = folder.words(preset, name), {label: prompts.labels[label] for label in names}
        with suppress(UserError):  # missing, of another version or damaged: it is made anew
            bank = TextBank.load(files)
            same_encoder = (bank.space.encoder, bank.space.encoder_hash) == (name, encoder_hash(name))
            if same_encoder and (bank.words.scan, bank.phrasings) == (prompts.scan, wanted):
                return name, bank.width
        try:
            encoder = TextEncoder(name)
        except UserError:
            if place + 1 == len(encoders):
                raise
            continue
        bank = build_bank(prompts, names, encoder)
        bank.save(files)
        return name, bank.width
    raise ValueError("no encoder was named")


def write_case_texts(texts: dict[str, str], encoder: str, path: Path) -> tuple[str, ...]:
    """Bring the cases' texts up to date, in vectors of the bank's encoder; returns what there is to say."""
    from textdiffseg.text.case_texts import update_case_texts

    return update_case_texts(path, texts, encoder)
