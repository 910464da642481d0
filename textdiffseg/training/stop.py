"""Ctrl-C and SIGTERM during training: finish the iteration, save the state, then end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from plans.errors import UserError
from textdiffseg.data.batch import Batch
from textdiffseg.progress import Cancel, Cancelled


@contextmanager
def stop_requests() -> Iterator[list[BaseException]]:
    """A list that receives an exception for each Ctrl-C or SIGTERM. A second Ctrl-C raises at once.

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
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(batches: Iterator[Batch], stop: list[BaseException], cancel: Cancel) -> Iterator[Batch]:
    """The batches until a request to stop, which is put into `stop`. An error while loading is such a request.

    A signal may have ended the loading processes, too. Their error is then not raised.
    """
    while not stop:
        if cancel():
            stop.append(Cancelled("The training was stopped. Call it again: it resumes where it stopped."))
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
