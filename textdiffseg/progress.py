"""Progress events, reports and cancelling of long work."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """The progress of one stage of the work."""

    stage: str  # e.g. "Fingerprint", "Train", "Predict"
    done: float
    total: float
    unit: str = ""  # of `done` and `total`, e.g. "case"
    detail: str = ""  # the current case, or the losses


OnProgress = Callable[[ProgressEvent], None]
Report = Callable[[str], None]
"""A function that receives a sentence for the user."""
Cancel = Callable[[], bool]
"""A function that is called between steps. If it returns True, the work raises `Cancelled`."""


class Cancelled(Exception):
    """Raised if `Cancel` returned True. Finished results are kept."""


def silent(_: object) -> None:
    """Ignore a report or an event."""


def never() -> bool:
    """A `Cancel` that never stops the work."""
    return False
