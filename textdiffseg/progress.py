"""Progress events, reports and cancelling of long work."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


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


def followed(
    results: Iterable[Item],
    stage: str,
    total: int,
    progress: OnProgress,
    cancel: Cancel,
    detail: Callable[[Item], str] = lambda _: "",
) -> Iterator[Item]:
    """The same results, one for each case. Each one is reported, and `cancel` can stop the work after it."""
    progress(ProgressEvent(stage, 0, total, "case"))
    for done, result in enumerate(results, start=1):
        progress(ProgressEvent(stage, done, total, "case", detail(result)))
        yield result
        if cancel():
            raise Cancelled(f"{stage}: stopped after {done} of {total} cases")


def silent(_: object) -> None:
    """Ignore a report or an event."""


def never() -> bool:
    """A `Cancel` that never stops the work."""
    return False
