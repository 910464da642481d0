"""The files of a plan's words in its preprocessed folder. Each text encoder has files of its own."""

from pathlib import Path

from plans.layout import PreprocessedFolder, WordFiles
from plans.plan import Plan


def stored_words(folder: PreprocessedFolder, plan: Plan) -> WordFiles:
    """The plan's text bank and text space; older folders have them under other names."""
    current = folder.words(plan.preset, plan.text.encoder)
    return current if current.bank.is_file() else folder.words(plan.preset)


def stored_case_texts(folder: PreprocessedFolder, plan: Plan) -> Path:
    """The file of the cases' texts; older folders have it under another name."""
    current = folder.case_texts(plan.preset, plan.text.encoder)
    return current if current.is_file() else folder.case_texts(plan.preset)
