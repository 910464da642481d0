"""The text encoder of a plan, and the files with vectors of phrasings and texts."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from plans.choices import Preset
from plans.errors import UserError
from plans.file_names import BUNDLED
from plans.layout import PreprocessedFolder
from plans.plan import TextPlan
from plans.planning.paper import ENCODER
from plans.planning.recipes import VARIANTS
from plans.raw.prompts import Prompts
from textdiffseg.text.folder import encoder_hash, width_of


def encoders_of(wanted: str | None, preset: Preset) -> tuple[str, ...]:
    """The text encoder. If the user has not named it, also the one to use in its place."""
    if wanted is not None:
        return (wanted,)
    return (ENCODER, BUNDLED) if preset in VARIANTS else (BUNDLED,)


def text_plan(
    encoders: Sequence[str], bank: Future[tuple[str, int]], preset: Preset, of_cases: bool = False
) -> TextPlan:
    """The encoder and the width of its vectors, from its folder if possible, else from the finished bank."""
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
    """The text encoder and the width of its vectors, after text bank and text space are written.

    The first encoder that can be loaded is used. Files with the same phrasings are kept.
    """
    from textdiffseg.text.bank import TextBank, build_bank
    from textdiffseg.text.encoder import TextEncoder

    for place, name in enumerate(encoders):
        files, wanted = folder.words(preset, name), {label: prompts.labels[label] for label in names}
        with suppress(UserError):  # missing, damaged or of another version: written again
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
    """Notes on the texts of cases, after their file is brought up to date with vectors of the bank's encoder."""
    from textdiffseg.text.case_texts import update_case_texts

    return update_case_texts(path, texts, encoder)
