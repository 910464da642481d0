"""The error that ended the last training or validation of a fold: one line beside the fold's folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from plans.errors import UserError, printable
from plans.layout import FoldFolder
from textdiffseg.failures import failure_line
from textdiffseg.files import write_atomically

MAX_CHARACTERS = 1000  # a sentence with two long paths


@contextmanager
def noting_error(fold: FoldFolder, *but: type[Exception]) -> Iterator[None]:
    """Remove the error of the last try, and note one that is raised inside. Errors of the types `but` are not noted."""
    with suppress(OSError):
        fold.error.unlink(missing_ok=True)
    try:
        yield
    except but:
        raise
    except Exception as error:
        text = error.lines[0] if isinstance(error, UserError) else failure_line(error, resumes=True)
        text = text or f"{type(error).__name__}: {error}"
        with suppress(OSError):  # the disk may be full
            write_atomically(fold.error, printable(text.strip().partition("\n")[0], MAX_CHARACTERS) + "\n")
        raise


def last_error(fold: FoldFolder) -> str | None:
    """The error that ended the last try of a fold; None: there was none."""
    try:
        return printable(fold.error.read_text(encoding="utf-8", errors="replace").strip(), MAX_CHARACTERS) or None
    except OSError:
        return None
