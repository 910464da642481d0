"""What every command shares: its parser, `--root`, and how it ends.

A command's module is laid out the same way each time::

    def make_parser() -> argparse.ArgumentParser: ...

    def main(argv: list[str] | None = None) -> int:
        args = make_parser().parse_args(argv)
        return run(work, args)  # work(args) imports what is heavy

"""

import argparse
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from plans.errors import UserError, printable
from textdiffseg import __version__
from textdiffseg.extras import advice, missing_extra

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 2  # a mistake that the user can mend, argparse's own included
INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
CLOSED = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM
MIN_ADDRESS_SPACE = 0.7e9  # bytes; with less, libraries end the process themselves
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = (
    "The memory is full. Close what else uses it, predict with fewer --samples or --folds, work with fewer --workers, "
    "raise this shell's limit if it has one (ulimit -v), or take a larger machine."
)
_NO_MEMORY_SIGNS = (
    "DefaultCPUAllocator",  # torch's for host memory
    "can't start new thread",
    "cannot allocate memory",
    "Cannot allocate memory",
    "failed to map segment",  # of a library that is loaded
    "std::bad_alloc",
)
MAX_WHOLE = 2**53  # beyond it, a checkpoint that notes the number could not be read again
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def command(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with `--version` whose `--help` ends with `examples`: one command line a line."""
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def add_root(parser: argparse.ArgumentParser) -> None:
    """`--root`: the folder that holds raw/, preprocessed/ and results/."""
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that holds raw/, preprocessed/ and results/ (default: the current folder)",
    )


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return _whole(text, 1)


def whole_number(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if (number := int(text)) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text}")
    if number > MAX_WHOLE:
        raise argparse.ArgumentTypeError(f"expected a whole number of at most {MAX_WHOLE}, found {text[:40]}")
    return number


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return number


def run(work: Callable[..., int | None], *args: object) -> int:
    """Call `work(*args)` and return the command's exit code.

    0 (or what `work` returns) when it went well; 2 with one line a fault on stderr for a `UserError`, a missing
    library of an extra, a full disk, a place that cannot be written, or memory that is full, a GPU's or the machine's;
    130 after Ctrl-C, 141 where the reader of the output is gone, 143 after SIGTERM, which unwinds like any exception
    so that what is open gets closed. Anything else is a bug and keeps its traceback.
    """
    # oneDNN's matrix kernels for AMX compute wrong gradients of bfloat16 convolutions on thin grids, or crash (seen in
    # torch 2.13). It reads this once, when the first convolution runs.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    # Threads that wait must soon sleep: ones that spin make a training iteration on two cores with busy neighbours
    # twice to six times as long. Ones that never spin cost a fifth when alone (docs/method.md). The second setting
    # is that of GNU's OpenMP, the first that of others. Both are read once, when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
    previous = _terminate_by_exception()
    try:
        with _degrading(sys.stdout), _degrading(sys.stderr):
            code = _ended(work, args)
            try:
                sys.stdout.flush()  # here, where what goes wrong can still be reported
            except (OSError, ValueError) as error:
                return _end_of_output(error)
            return code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _ended(work: Callable[..., int | None], args: tuple[object, ...]) -> int:
    """The exit code of `work(*args)`, and a line for each error that a user can mend."""
    if (limit := _address_space()) < MIN_ADDRESS_SPACE:
        return _fail(f"This shell allows {limit / 1e9:.1f} GB of address space. Raise the limit (ulimit -v unlimited).")
    try:
        return work(*args) or 0
    except UserError as error:
        return _fail(*error.lines)
    except BrokenPipeError as error:
        return _end_of_output(error)
    except OSError as error:
        line = _line_of(error)
        if line is None:
            raise
        return _fail(line)
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except (MemoryError, ImportError, RuntimeError) as error:
        line = _line_of_memory(error)
        if line is None:
            raise
        return _fail(line)
    except KeyboardInterrupt:
        _fail("Interrupted. Run the same command again: it goes on where it stopped.", prefix="")
        return INTERRUPTED


def _address_space() -> float:
    """Bytes that this process may map; infinite where there is no limit, or none that can be known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _line_of(error: OSError) -> str | None:
    """What to do about an error of the system; None where that is unknown."""
    where = f" while writing {error.filename}" if error.filename else ""
    if error.errno == errno.EISDIR and error.filename:
        return f"{error.filename} is a folder, expected a file. Move it away, and run the same command again."
    if error.errno in _CLOSED and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another place, or mend its permissions."
    if error.errno in _FULL:
        return f"The disk is full{where}. Make room and run the same command again: it goes on."
    if error.errno == errno.EFBIG:
        return (
            f"A file became larger than this shell or file system allows{where}. Raise the limit (ulimit -f "
            "unlimited), or choose another place, and run the same command again: it goes on."
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return _NO_MEMORY
    return None


def _line_of_memory(error: Exception) -> str | None:
    """What to do about memory that is full, a GPU's or the machine's; None for any other error."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY_SIGNS):
        return _NO_MEMORY
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which only heavy commands import
        return (
            "The GPU is out of memory. Close what else uses it, plan with a smaller --memory-gb, predict with fewer "
            "--samples or --folds, or give --device cpu."
        )
    if "File too large" in str(error):  # torch's for shared memory
        return _line_of(OSError(errno.EFBIG, "File too large"))
    return None


def console() -> "Console":
    """Where tables are printed, as they are: the names of labels and files may hold brackets."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            raise BrokenPipeError  # for `run` to handle; rich would end with code 1

    return Pipe(markup=False)


def say(*lines: str) -> None:
    """Print lines that may hold names of others, each as one harmless line, at once."""
    for line in lines:
        print(printable(line), flush=True)


def _fail(*lines: str, prefix: str = "error: ") -> int:
    with suppress(OSError, ValueError):  # nobody reads the errors: the exit code remains
        for line in lines:
            print(f"{prefix}{printable(line)}", file=sys.stderr)
    return FAILED


def _end_of_output(error: Exception) -> int:
    """The exit code where the output cannot be written: its reader is gone, which is quiet, or its disk is full.

    What is left of it goes nowhere, so that the interpreter does not try again when it ends.
    """
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return _fail(_line_of(error) or f"The output cannot be written: {error.strerror}.")
    return CLOSED


@contextmanager
def _degrading(stream: TextIO | None) -> Iterator[None]:
    """Characters that a stream's encoding does not have are written as escapes in place of raising an error."""
    if not isinstance(stream, TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            stream.reconfigure(errors=before)


def _missing(error: ModuleNotFoundError) -> str:
    """The command that installs a module of an extra; any other module is a bug and is raised again."""
    if (extra := missing_extra(error)) is None:
        raise error
    return f"The module {error.name} is not installed: {advice(extra)}"


def _terminate_by_exception() -> signal.Handlers | Callable[[int, FrameType | None], object] | int | None:
    """Let SIGTERM raise `SystemExit`, where signals can be set (the main thread); returns the old handler."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
