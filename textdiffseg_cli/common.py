"""The shared parts of the commands: the parser, `--root`, printing, and exit codes.

Every module of a command has the same two functions::

    def make_parser() -> argparse.ArgumentParser: ...

    def main(argv: list[str] | None = None) -> int:
        args = make_parser().parse_args(argv)
        return run(work, args)  # heavy libraries are imported inside work

"""

import argparse
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from plans.choices import PRESETS
from plans.errors import UserError, printable
from textdiffseg import __version__
from textdiffseg.allocator import keep_freed_memory
from textdiffseg.failures import failure_line
from textdiffseg.progress import ending_signals
from textdiffseg_cli.advice import address_space_error, path_error

if TYPE_CHECKING:
    from rich.console import Console

Handler = signal.Handlers | Callable[[int, FrameType | None], object] | int | None

# Exit codes. Those of signals are 128 + the signal's number, as shells expect.
FAILED = 2  # a mistake that the user can correct; argparse uses the same code
INTERRUPTED = 130  # SIGINT
CLOSED = 141  # SIGPIPE

MAX_WHOLE = 2**53  # a checkpoint that holds a larger number could not be read again


def command(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with `--version`. Its `--help` ends with `examples`, one command per line."""
    width = max(40, shutil.get_terminal_size().columns - 2)  # as argparse, whose raw formatter does not wrap
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=name,
        description=textwrap.fill(description, width),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add `--root`, the folder that holds raw/, preprocessed/ and results/."""
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that holds raw/, preprocessed/ and results/ (default: the current folder)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a trained model: DATASET or -m, and `--preset`. Needs `--root`, too."""
    parser.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="the model of this data set: id, name or folder name"
    )
    parser.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="instead: folder of a trained model")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="which model, if there are several")


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


def run(work: Callable[..., int | None], *args: object, resumes: bool = False) -> int:
    """The exit code of a command that calls `work(*args)`.

    0, or the value that `work` returns: success.
    2: mistakes that the user can correct, one line each on stderr. These are every `UserError`, a missing library of
        an extra, a full disk, a place that cannot be written, and full memory.
    130: Ctrl-C.
    141: the reader of the output is gone.
    143, 129: SIGTERM, SIGHUP. They unwind like an exception, so open files are closed.

    Any other exception is a bug and keeps its traceback.

    resumes: whether the command goes on where it stopped if it is typed again. The error lines say so.
    """
    # oneDNN's matrix kernels for AMX compute wrong gradients of bfloat16 convolutions on thin grids, or crash (seen in
    # torch 2.13). It reads this once, when the first convolution runs.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    # Waiting threads must soon sleep. If they spin, an iteration on two cores with busy neighbours takes two to six
    # times as long. If they never spin, it takes a fifth longer on an idle machine (docs/history.md). GNU's OpenMP
    # reads the second setting, others the first. Both are read once, when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
    keep_freed_memory()
    _open_closed_streams()
    previous = _terminate_by_exception()
    hook, sys.unraisablehook = sys.unraisablehook, _repeat_if_swallowed
    try:
        with _degrading(sys.stdout), _degrading(sys.stderr):
            code = _exit_code(work, args, resumes)
            try:
                sys.stdout.flush()  # an error can still be reported here
            except (OSError, ValueError) as error:
                return _end_of_output(error)
            return code
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(work: Callable[..., int | None], args: tuple[object, ...], resumes: bool) -> int:
    """The exit code of `work(*args)`. Errors that the user can correct are printed, one line each."""
    line = address_space_error() or path_error(args)
    if line is not None:
        return _fail(line)
    try:
        return work(*args) or 0
    except UserError as error:
        return _fail(*error.lines)
    except BrokenPipeError as error:
        return _end_of_output(error)
    except KeyboardInterrupt:
        kept = "what is finished is kept" if resumes else "it starts from the beginning"
        _fail(f"Interrupted. Run the same command again: {kept}.", prefix="")
        return INTERRUPTED
    except Exception as error:
        line = failure_line(error, resumes)
        if line is None:
            raise
        return _fail(line)


def console() -> "Console":
    """The console for tables. Brackets and colons in names of labels and files are printed as they are.

    Control characters are escaped, except line ends.
    """
    from rich.console import Console
    from rich.text import Text

    class Pipe(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # of a printed text, and of each cell of a table
            return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

        def on_broken_pipe(self) -> None:
            self.quiet = True
            raise BrokenPipeError  # `run` handles it; rich would exit with code 1

    return Pipe(markup=False, emoji=False)


def print_lines(*lines: str, file: TextIO | None = None) -> None:
    """Print each text as one line, at once; `file` None: on stdout. Control characters in names are escaped."""
    for line in lines:
        print(printable(line), file=file, flush=True)


def _fail(*lines: str, prefix: str = "error: ") -> int:
    with suppress(OSError, ValueError):  # stderr may be closed; the exit code remains
        for line in lines:
            print(f"{prefix}{printable(line)}", file=sys.stderr)
    return FAILED


def _end_of_output(error: Exception) -> int:
    """The exit code if the output cannot be written. A reader that is gone is silent; a full disk is reported.

    The rest of the output is dropped, as the interpreter would otherwise try to write it again at exit.
    """
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return _fail(failure_line(error, resumes=False) or f"The output cannot be written: {error.strerror}.")
    return CLOSED


@contextmanager
def _degrading(stream: TextIO | None) -> Iterator[None]:
    """Write characters that the stream's encoding lacks as escapes, without an error."""
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


def _open_closed_streams() -> None:
    """What is written to streams that the shell closed (`>&-`) goes nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _repeat_if_swallowed(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send SIGTERM or SIGHUP again if its exception came in a callback of the interpreter, which drops exceptions."""
    error = unraisable.exc_value
    for number in ending_signals():
        if isinstance(error, SystemExit) and error.code == 128 + number:
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            return
    sys.__unraisablehook__(unraisable)


def _terminate_by_exception() -> dict[int, Handler]:
    """Let SIGTERM and SIGHUP raise `SystemExit`. Returns the old handlers. Only the main thread may set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in ending_signals()}
