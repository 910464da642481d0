"""How long work reports what it has done, and how it is asked to stop."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """How far one stage of the work is."""

    stage: str  # e.g. "Fingerprint", "Train", "Predict"
    done: float
    total: float
    unit: str = ""  # of `done` and `total`, e.g. "case"
    detail: str = ""  # what is worked on, or the losses


OnProgress = Callable[[ProgressEvent], None]
Report = Callable[[str], None]
"""Called with a sentence for the user."""
Cancel = Callable[[], bool]
"""Asked between steps; where it returns True, the work stops with `Cancelled`."""


class Cancelled(Exception):
    """The work was asked to stop. What was finished before stays."""


def silent(_: object) -> None:
    """Take a report or an event, and do nothing."""


def never() -> bool:
    """Nobody asks the work to stop."""
    return False
