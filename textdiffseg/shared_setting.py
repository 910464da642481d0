"""`SharedSetting`: a setting of the whole process that threads change for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SharedSetting(Generic[Value]):
    """A setting of the process, with the functions that read and write it."""

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], None]):
        self._read, self._write = read, write
        self._lock = Lock()
        self._found: list[Value] = []  # the setting before each context that is open

    @contextmanager
    def set_to(self, value: Value) -> Iterator[None]:
        """Apply a value inside the context, and restore the process's setting afterwards.

        Several threads may be inside it. The last one that leaves restores what the first one found.
        """
        with self._lock:
            self._found.append(self._read())
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                if len(self._found) == 1:
                    self._write(self._found[0])
                self._found.pop()
