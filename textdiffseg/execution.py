"""Work over cases: one `concurrent.futures.Executor`, be it inline, a pool of processes, or a Dask cluster's.

A child's error comes back with its traceback and the name of the case; users' mistakes of all cases come back together.
"""

import atexit
import errno
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import TypeVar

from plans.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_GONE = (errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN)  # of a file that was there before
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int = 0,
    scheduler: str | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for each item in order; `names` say in errors which case it was.

    Items whose result is a `UserError` are left out, and all these errors are raised as one at the end.
    Any other error ends the work at once. `workers=0` runs inline; `scheduler` is a Dask scheduler's address.
    """
    faults: list[str] = []
    with _executor(function, min(workers, len(items)), scheduler) as executor:
        try:
            calls = _submit(executor, function, items)
        except (BrokenProcessPool, EOFError, ConnectionError):  # of the process that workers are forked from
            raise _killed("the work began", workers) from None
        for name, get in zip(names, calls, strict=True):
            try:
                result = get()
            except UserError as error:
                faults += error.naming(name)
                continue
            except BrokenProcessPool:
                raise _killed(f"case {name} or one near it was worked on", workers) from None
            except OSError as error:
                if error.errno not in _GONE or not error.filename:
                    error.add_note(f"while working on case {name}")
                    raise
                gone = UserError(f"{error.filename}: {error.strerror}. Put it back and run the same command again.")
                faults += gone.naming(name)
                continue
            except Exception as error:
                error.add_note(f"while working on case {name}")
                raise
            yield result
    if faults:
        raise UserError(*faults)


def _killed(when: str, workers: int) -> UserError:
    return UserError(
        f"A worker process was killed while {when}, most likely because memory ran out. Run again with fewer than "
        f"--workers {workers}; finished cases stay."
    )


@contextmanager
def one_beside(workers: int | None) -> Iterator[Executor]:
    """An executor for one thing at a time beside the work over cases, in a process of its own, which need not wait
    for `warm_up`; a thread if `workers` is 0, so that everything stays in this process.

    `UserError` where the process was killed.
    """
    if workers == 0:
        with ThreadPoolExecutor(1) as thread:
            yield thread
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_start_beside) as process:
            yield process
    except BrokenProcessPool:
        raise UserError(
            "The process that encodes the words was killed, most likely because memory ran out. Close what else uses "
            "it and run the same command again, with fewer --workers; finished cases stay."
        ) from None


def warm_up(*modules: str) -> None:
    """Start the process that workers are forked from; it imports `modules` once, in the background, for all of them.

    It serves every pool of this process, so only the first call counts. Without fork, workers import for themselves.
    """
    if _context().get_start_method() == "forkserver":
        forkserver.set_forkserver_preload(list(modules))
        with _one_thread_each():
            forkserver.ensure_running()


@contextmanager
def _executor(function: Callable[[Item], Result], workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    """None stands for inline. Whatever ends the work, what has not begun is cancelled."""
    if scheduler is not None:
        with _dask(scheduler) as executor:
            yield executor
        return
    if workers == 0:
        yield None
        return
    warm_up(getattr(function, "func", function).__module__)
    executor = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """Never a plain fork, which copies a process while its threads hold locks."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _submit(
    executor: Executor | None, function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Callable[[], Result]]:
    """One callable an item that gives its result."""
    if executor is None:
        return [partial(function, item) for item in items]
    futures = [executor.submit(function, item) for item in items]
    return [future.result for future in futures]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """A process started inside has one thread for linear algebra; libraries read that when they are loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start_worker() -> None:
    """One thread for linear algebra; Ctrl-C is the parent's to handle; a worker ends with its parent, come what may."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # in time for libraries that are not loaded yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _start_beside() -> None:
    """A short life that loads big libraries: of the text encoder's 4.8 s, a second went into collecting garbage that
    is none, and another into taking the libraries apart in the end.
    """
    _start_worker()
    gc.disable()
    atexit.register(os._exit, 0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:  # not a process that another one started
        return
    parent.join()
    os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--scheduler needs Dask. Install it: pip install 'textdiffseg[cluster]'.") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler {address}: no Dask scheduler answers there ({error}).") from None
    with client, client.get_executor() as executor:
        yield executor
