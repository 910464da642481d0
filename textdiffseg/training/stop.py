"""Requests to stop a training: finish the iteration, save the state, then end.

They are Ctrl-C, SIGTERM, SIGHUP, and errors in functions that the caller gave.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from plans.errors import UserError
from textdiffseg.data.batch import Batch
from textdiffseg.progress import Cancel, Cancelled, ending_signals

Item = TypeVar("Item")


@contextmanager
def stop_requests() -> Iterator[list[BaseException]]:
    """A list that receives an exception for each Ctrl-C, SIGTERM or SIGHUP. A second Ctrl-C raises at once.

    Remove an exception from the list before you raise it. Otherwise the list and the traceback keep each other alive,
    and the loading processes with them.
    """
    requests: list[BaseException] = []

    def note(number: int, frame: object) -> None:
        if requests and number == signal.SIGINT:
            raise KeyboardInterrupt
        requests.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, *ending_signals())}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred(stop: list[BaseException]) -> Iterator[None]:
    """Put an error into `stop`, so that the state is saved before it is raised. A second Ctrl-C is raised at once."""
    try:
        yield
    except BaseException as error:
        if stop and isinstance(error, KeyboardInterrupt):
            raise
        if not stop:
            stop.append(error)


def deferring(listener: Callable[[Item], None], stop: list[BaseException]) -> Callable[[Item], None]:
    """The function `listener`, whose errors are put into `stop`."""

    def listen(item: Item) -> None:
        with deferred(stop):
            listener(item)

    return listen


def until_stopped(batches: Iterator[Batch], stop: list[BaseException], cancel: Cancel) -> Iterator[Batch]:
    """The batches until a request to stop, which is put into `stop`.

    An error while loading, or in `cancel`, is such a request. A signal may have ended the loading processes, too. Their
    error is then not raised.
    """
    while not stop:
        with deferred(stop):
            if cancel():
                raise Cancelled("The training was stopped. Call it again: it resumes where it stopped.")
        if stop:
            return
        try:
            batch = next(batches)
        except StopIteration:
            return
        except UserError as error:  # a damaged case or a dead worker: the state is saved first
            if not stop:
                stop.append(error)
            return
        yield batch
