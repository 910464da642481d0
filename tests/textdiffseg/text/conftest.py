"""The bundled encoder, loaded once, and a bank of a few words."""

import pytest

from plans.raw.prompts import Prompts
from textdiffseg.text.bank import TextBank, build_bank
from textdiffseg.text.encoder import TextEncoder

PROMPTS = Prompts(
    scan="T1 MRI of the hippocampus",
    labels={
        "Posterior": ("posterior hippocampus", "tail of the hippocampus"),
        "Anterior": ("anterior hippocampus", "hippocampal head", "front"),
    },
)


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="session")
def bank(encoder) -> TextBank:
    """Label 1 is Anterior (three phrasings), label 2 Posterior (two)."""
    return build_bank(PROMPTS, ("Anterior", "Posterior"), encoder)
