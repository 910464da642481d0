"""Progress on stderr: a bar for each stage on a terminal, single lines elsewhere."""

import os
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Never

from plans.errors import printable
from textdiffseg_cli.common import print_lines

if TYPE_CHECKING:
    from tqdm import tqdm

    from textdiffseg.progress import ProgressEvent

_FRACTIONAL = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} {unit}s [{elapsed}<{remaining}{postfix}]"
_UNITS_OF_CASES = ("case", "scan", "setting")  # may be done in part; elsewhere each one gets a line
_PLURALS = {"it": "iterations", "MB": "MB"}
_MAX_CASE_LINES, _MAX_LINES = 100, 10  # per stage
_COLUMNS, _ROWS = 80, 24  # if the terminal reports no size


class Bars:
    """The bars of a command. Call the object with each `ProgressEvent`. Leaving the context closes the last bar.

    Several threads may use one object: on a GPU, one segments while another writes and reports.
    """

    def __init__(self, quiet: bool = False, json: bool = False):
        """`quiet`: print nothing. `json`: print lines on stderr, because stdout is for the result."""
        self._quiet, self._json = quiet, json
        self._lock = threading.RLock()  # reentrant: a signal handler may print while its thread holds it
        self._stage = ""
        self._bar: tqdm[Never] | _Lines | None = None
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def __call__(self, event: "ProgressEvent") -> None:
        """Move the bar of the event's stage. The first event of a stage opens its bar."""
        if self._quiet:
            return
        with self._lock:
            if event.stage != self._stage or self._bar is None:
                self._close()
                self._stage = event.stage
                self._bar = _open(event) if self._terminal else _Lines(event)
            if isinstance(self._bar, _Lines):
                self._bar.update(event)
                return
            if event.detail:
                self._bar.set_postfix_str(printable(event.detail), refresh=False)
            self._bar.total = event.total
            self._bar.update(event.done - self._bar.n)

    def print_line(self, line: str) -> None:
        """Print a line above the current bar."""
        if self._quiet:
            return
        with self._lock:
            bar = None if isinstance(self._bar, _Lines) else self._bar
            if bar is not None:
                bar.clear()
            print_lines(line, file=sys.stderr if self._json else sys.stdout)
            if bar is not None:
                bar.refresh()

    def _close(self) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None


class _Lines:
    """A stage without a bar: one line per case, or one per tenth of other work."""

    def __init__(self, event: "ProgressEvent"):
        self._began, self._shown = time.monotonic(), 0.0
        of_cases = event.unit in _UNITS_OF_CASES
        self._step = max(1.0, event.total / (_MAX_CASE_LINES if of_cases else _MAX_LINES))

    def update(self, event: "ProgressEvent") -> None:
        """Print a line if another step or the whole stage is done."""
        is_complete = event.done >= event.total
        if event.done <= self._shown or not (is_complete or event.done // self._step > self._shown // self._step):
            return
        self._shown = event.done
        unit = f" {_PLURALS.get(event.unit, f'{event.unit}s')}" if event.unit else ""
        detail = f", {printable(event.detail)}" if event.detail else ""
        seconds = time.monotonic() - self._began
        print(
            f"{event.stage}: {int(event.done)} of {event.total:g}{unit} after {seconds:.0f} s{detail}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Do nothing: every line is printed already."""


def _open(event: "ProgressEvent") -> "tqdm[Never]":
    """A bar at the first event's position. A resumed run begins in the middle."""
    from tqdm import tqdm

    columns = _columns()
    return tqdm(
        desc=event.stage,
        total=event.total,
        initial=event.done,
        unit=event.unit,
        dynamic_ncols=columns is None,
        ncols=columns,
        nrows=None if columns is None else _ROWS,
        bar_format=_FRACTIONAL if event.unit in _UNITS_OF_CASES else None,
    )


def _columns() -> int | None:
    """The width of bars if the terminal reports none; None if it reports one."""
    with suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns > 0:
            return None
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else _COLUMNS
