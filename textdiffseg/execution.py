"""Run a function over cases: inline, in a pool of processes, or on a Dask cluster (`concurrent.futures.Executor`).

A worker's error keeps its traceback and names the case. The `UserError`s of all cases are raised together.
"""

import atexit
import errno
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import TypeVar

from plans.errors import UserError, merged
from textdiffseg.extras import require

Item = TypeVar("Item")
Result = TypeVar("Result")
_GONE = (errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN)  # errors of a file that existed before
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int = 0,
    scheduler: str | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order.

    Args:
        function: a function that can be pickled, and not one of the running script, unless it runs inline.
        items: its arguments.
        names: the case of each item, for error messages.
        workers: processes; 0 runs in this process.
        scheduler: address of a Dask scheduler, which replaces the processes.

    Raises:
        UserError: the `UserError`s of all items, after the other items are done. Equal lines of many cases are one.
            Any other error ends the work at once.
    """
    faults: list[tuple[str, str]] = []
    with _executor(function, min(workers, len(items)), scheduler) as executor:
        try:
            calls = _submit(executor, function, items)
        except (BrokenProcessPool, EOFError, ConnectionError):  # of the server that workers are forked from
            raise _killed("before the work began", workers) from None
        for name, get in zip(names, calls, strict=True):
            try:
                result = get()
            except UserError as error:
                faults += [(name, line) for line in error.naming(name)]
                continue
            except BrokenProcessPool:
                raise _killed(f"at case {name} or one near it", workers) from None
            except OSError as error:
                if error.errno not in _GONE or not error.filename:
                    error.add_note(f"while working on case {name}")
                    raise
                gone = UserError(f"{error.filename}: {error.strerror}. Restore it and run the same command again.")
                faults += [(name, line) for line in gone.naming(name)]
                continue
            except Exception as error:
                error.add_note(f"while working on case {name}")
                raise
            yield result
    if faults:
        raise UserError(*merged(faults))


def _killed(when: str, workers: int) -> UserError:
    return UserError(
        f"A worker process was killed {when}, most likely because the memory was full. Run again with fewer than "
        f"--workers {workers}. Files that are written are kept."
    )


@contextmanager
def background_executor(workers: int | None) -> Iterator[Executor]:
    """An executor with a single worker for background work during `run_cases`.

    The worker is a process that does not wait for `warm_up`. If `workers` is 0, it is a thread of this process. Raises
    `UserError` if the process was killed.
    """
    if workers == 0:
        with ThreadPoolExecutor(1) as thread:
            yield thread
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_start_short_worker) as process:
            with without_main(), _without_interrupts():
                process.submit(int)  # it starts the process
            yield process
    except BrokenProcessPool:
        raise UserError(
            "The process that encodes the words was killed, most likely because the memory was full. Close other "
            "programs and run the same command again, with fewer --workers. Finished cases are kept."
        ) from None


def warm_up(*modules: str) -> None:
    """Start the server process that workers are forked from. It imports `modules` once for all workers.

    The import runs in the background. The server is shared by all pools, so only the first call has an effect.
    Systems without fork have no server; there each worker imports the modules itself.
    """
    if _context().get_start_method() == "forkserver":
        forkserver.set_forkserver_preload(list(modules))
        with _one_thread_each(), _without_interrupts():
            forkserver.ensure_running()


@contextmanager
def _executor(function: Callable[[Item], Result], workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    """An executor, or None to run inline. On leaving the context, items that have not started are cancelled."""
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


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started in the context do not run the user's script first.

    Python runs it in each new process, for functions that it may define. A script without `if __name__ == "__main__":`
    would start its work again there. No function for a process is of the script, so its module is hidden.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _context() -> BaseContext:
    """The start method of workers. A plain fork is never used, as it copies locks that other threads hold."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _submit(
    executor: Executor | None, function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Callable[[], Result]]:
    """For each item a function that returns its result."""
    if executor is None:
        return [partial(function, item) for item in items]
    with without_main():
        futures = [executor.submit(function, item) for item in items]
    return [future.result for future in futures]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started in the context use one thread for linear algebra. Libraries read this when loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in the context never get Ctrl-C, also while they import modules.

    A process inherits the blocked signals. Their own handlers would come too late: an interrupted import prints its
    traceback. In this process, Ctrl-C waits for the end of the context.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Set up a worker: one thread for linear algebra, no reaction to Ctrl-C, and an end when its parent ends."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # for libraries that are not loaded yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _start_short_worker() -> None:
    """Set up a worker that only runs for seconds: without garbage collection, and without cleanup at exit.

    Each of the two takes one second of the text encoder's 4.8 s.
    """
    _start_worker()
    gc.disable()
    atexit.register(os._exit, 0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:  # this is the main process
        return
    parent.join()
    os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    require("cluster", "--scheduler", "distributed")
    from concurrent.futures import CancelledError

    from distributed import Client, KilledWorker

    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}). Start one, or correct the address."
        ) from None
    try:
        with client, client.get_executor() as executor:
            yield executor
    except KilledWorker:
        raise UserError(
            f"--scheduler {address}: a case killed several workers, most likely because their memory was full. Give "
            "each worker more memory, or start fewer on a machine. Finished cases are kept."
        ) from None
    except CancelledError:
        raise UserError(
            f"--scheduler {address}: the scheduler is gone. Start it and its workers, and run the same command again. "
            "Finished cases are kept."
        ) from None
