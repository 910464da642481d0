"""What every command shares: its parser, `--root`, and how it ends.

A command's module is laid out the same way each time::

    def make_parser() -> argparse.ArgumentParser: ...

    def main(argv: list[str] | None = None) -> int:
        args = make_parser().parse_args(argv)
        return run(work, args)  # work(args) imports what is heavy

"""

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from plans.errors import UserError
from textdiffseg import __version__
from textdiffseg.extras import advice, missing_extra

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 2  # a mistake that the user can mend, argparse's own included
INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
TERMINATED = 143  # 128 + SIGTERM
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = (
    "The memory is full. Close what else uses it, predict with fewer --samples or --folds, work with fewer --workers, "
    "or take a larger machine."
)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


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
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return number


def whole_number(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
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
    130 after Ctrl-C, 143 after SIGTERM, which unwinds like any exception so that what is open gets closed. Anything
    else is a bug and keeps its traceback.
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
        return work(*args) or 0
    except UserError as error:
        return _fail(*error.lines)
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except OSError as error:
        if error.errno in _CLOSED and error.filename:
            return _fail(f"{error.filename}: {error.strerror}. Choose another place, or mend its permissions.")
        if error.errno == errno.ENOMEM:
            return _fail(_NO_MEMORY)
        if error.errno not in _FULL:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        return _fail(f"The disk is full{where}. Make room and run the same command again: it goes on.")
    except MemoryError:
        return _fail(_NO_MEMORY)
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch's for host memory
            return _fail(_NO_MEMORY)
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which only heavy commands import
            raise
        return _fail(
            "The GPU is out of memory. Close what else uses it, plan with a smaller --memory-gb, predict with fewer "
            "--samples or --folds, or give --device cpu."
        )
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again: it goes on where it stopped.", file=sys.stderr)
        return INTERRUPTED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def console() -> "Console":
    """Where tables are printed, as they are: the names of labels and files may hold brackets."""
    from rich.console import Console

    return Console(markup=False)


def _fail(*lines: str) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return FAILED


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
