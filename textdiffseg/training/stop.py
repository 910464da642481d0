"""Ctrl-C and SIGTERM during training: finish the iteration, save, leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[list[BaseException]]:
    """Ctrl-C and SIGTERM wait until the running iteration is done; a second Ctrl-C does not.

    What is raised at last is taken out of the list, or traceback and list would keep each other alive, and with them
    the processes that load, to the end of the program.
    """
    asked: list[BaseException] = []

    def note(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
