"""Work ahead in a second thread."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(
    items: Iterator[Item], active: bool = True, stop: Callable[[], None] = lambda: None
) -> Generator[Item, None, None]:
    """The same items. While one of them is used, a thread computes the next one.

    Only one item is ahead, so that memory is bounded. An error of the thread is raised at the place of its item.

    Args:
        items: what the thread computes.
        active: False: no thread is used.
        stop: called if the items are not used to their end, so that the thread can end early. It is waited for.
    """
    if not active:
        yield from items
        return
    coming: Future[list[Item]] | None = None
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(_next, items)
            while ready := coming.result():
                coming = thread.submit(_next, items)
                yield ready.pop()  # no longer kept here, which saves memory
        except BaseException:  # also Ctrl-C, and an iterator that is closed
            stop()
            coming = None  # it holds the error, and the error holds this frame, with all that the thread has computed
            raise


def _next(items: Iterator[Item]) -> list[Item]:
    """The next item, or nothing at the end."""
    for item in items:
        return [item]
    return []
