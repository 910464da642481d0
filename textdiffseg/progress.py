"""Progress events, reports and cancelling of long work."""

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

Item = TypeVar("Item")
MB = 1_000_000  # bytes


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
StepProgress = Callable[[float, float], None]
"""A function that is called with (steps done, all steps). A step is, for example, a group of windows."""
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


def share_of(
    progress: StepProgress | None, before: float, share: float, total: float | None = None
) -> StepProgress | None:
    """The progress of one of several passes, as a part of the whole. None without `progress`.

    Args:
        progress: of the whole.
        before: the fraction of the whole that is done before the pass.
        share: the fraction of the whole that the pass takes.
        total: the steps of the whole; None: as many as the pass has.
    """
    if progress is None:
        return None

    def of_pass(done: float, steps: float) -> None:
        steps_of_whole = steps if total is None else total
        progress(steps_of_whole * (before + share * done / steps), steps_of_whole)

    return of_pass


def share_of_case(progress: StepProgress | None, index: int, cases: int) -> StepProgress | None:
    """The progress of case `index` of `cases` cases, as a part of the whole, which has a step per case."""
    return share_of(progress, index / cases, 1 / cases, cases)


def step_reporter(
    progress: OnProgress,
    cancel: Cancel,
    stage: str,
    unit: str,
    stopped: str,
    detail: str = "",
    forecast: StepProgress | None = None,
) -> StepProgress:
    """A callback that reports each step of a stage as an event. It raises `Cancelled` if `cancel` returns True.

    Args:
        progress: called with the event of each step.
        cancel: called after each step.
        stage: the name of the stage.
        unit: of a step, e.g. "window".
        stopped: the message of `Cancelled`. "{done}" and "{total}" stand for the numbers of steps.
        detail: of all events, e.g. the case.
        forecast: called after each event, to forecast the duration.
    """

    def report_step(done: float, total: float) -> None:
        progress(ProgressEvent(stage, done, total, unit, detail))
        if forecast is not None:
            forecast(done, total)
        if cancel():
            raise Cancelled(stopped.replace("{done}", str(int(done))).replace("{total}", f"{total:g}"))

    return report_step


def bytes_reporter(progress: OnProgress, stage: str, total: int) -> Callable[[int], None]:
    """A callback that takes the bytes of each finished part, and reports the progress of a stage in MB.

    total: bytes of the whole stage.
    """
    finished = 0

    def report_part(size: int) -> None:
        nonlocal finished
        finished += size
        progress(ProgressEvent(stage, ceil(finished / MB), ceil(total / MB), "MB"))

    return report_part


def silent(_: object) -> None:
    """Ignore a report or an event."""


def never() -> bool:
    """A `Cancel` that never stops the work."""
    return False


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, and SIGHUP of a closed terminal where the platform has it, unless `nohup` ignores it."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, hangup)
