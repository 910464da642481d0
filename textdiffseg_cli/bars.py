"""Progress bars: one for each stage of the work that the library reports."""

from types import TracebackType
from typing import TYPE_CHECKING, Never

from plans.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm

    from textdiffseg.progress import ProgressEvent

_LAYOUT = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} {unit}s [{elapsed}<{remaining}{postfix}]"


class Bars:
    """Call it with each `ProgressEvent`; leave the context to close the last bar."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: tqdm[Never] | None = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def __call__(self, event: "ProgressEvent") -> None:
        """Move the stage's bar, which is opened at its first event."""
        if event.stage != self._stage or self._bar is None:
            self._close()
            self._stage, self._bar = event.stage, _open(event)
        if event.detail:
            self._bar.set_postfix_str(printable(event.detail), refresh=False)
        self._bar.total = event.total
        self._bar.update(event.done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open(event: "ProgressEvent") -> "tqdm[Never]":
    """A bar that begins where the stage begins, e.g. in the middle of a run that goes on."""
    from tqdm import tqdm

    layout = _LAYOUT if event.unit == "scan" else None  # whose parts are counted, too
    return tqdm(
        desc=event.stage, total=event.total, initial=event.done, unit=event.unit, dynamic_ncols=True, bar_format=layout
    )
