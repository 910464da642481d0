"""The error line of a failure that the user can correct: a full disk, full memory, a missing library."""

import errno
import math
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from plans.errors import printable
from textdiffseg.extras import advice, missing_extra
from textdiffseg.resources import is_out_of_host_memory

MIN_ADDRESS_SPACE_BYTES = 0.7e9  # with less, libraries end the process themselves
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_MEMORY_FULL = (
    "The memory is full. Close other programs, predict with fewer --samples or --folds, work with fewer --workers, "
    "raise this shell's limit if it has one (ulimit -v), or take a larger machine."
)
_GPU_MEMORY_FULL = (
    "The GPU is out of memory. Close other programs that use it, plan with a smaller --memory-gb, predict with fewer "
    "--samples or --folds, or use --device cpu."
)
_STARTING_SIGNS = ("can't start new thread", "failed to map segment")  # of a thread, and of a library that is loaded


def address_space_error() -> str | None:
    """The error line if this shell allows too little address space; None if there is enough."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    allowed = math.inf if limit == resource.RLIM_INFINITY else limit
    if allowed >= MIN_ADDRESS_SPACE_BYTES:
        return None
    return f"This shell allows {allowed / 1e9:.1f} GB of address space. Raise the limit (ulimit -v unlimited)."


def path_error(args: Iterable[object]) -> str | None:
    """The error line for a path among the arguments that has no full name in UTF-8; None if there is none."""
    values = [
        value
        for argument in args
        for value in (vars(argument).values() if isinstance(argument, Namespace) else (argument,))
    ]
    for path in (value for value in values if isinstance(value, Path)):
        try:
            full_path = str(path.absolute())
            full_path.encode()
        except UnicodeEncodeError:
            return f"{printable(full_path)}: {_encoding_advice(full_path)}"
        except OSError as error:
            return f"The current folder cannot be found ({error.strerror}). Change to another folder with cd."
    return None


def _encoding_advice(path: str) -> str:
    """What to do about a path whose bytes this process could not decode."""
    with suppress(UnicodeError):
        os.fsencode(path).decode("utf-8")
        return f"this shell's locale reads names as {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8."
    return "this path is not in UTF-8. Rename its folder or file."


def system_error(error: OSError) -> str | None:
    """The error line of a system error; None for one without a number, which a library raised."""
    where = f" while writing {error.filename}" if error.filename else ""
    if error.errno == errno.EISDIR and error.filename:
        return f"{error.filename} is a folder, expected a file. Move it away and run the same command again."
    if error.errno in _NOT_WRITABLE and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another place, or correct its permissions."
    if error.errno == errno.ENAMETOOLONG and error.filename:
        return f"{error.filename}: the name is too long for this file system. Choose a shorter one."
    if error.errno in _DISK_FULL:
        return f"The disk is full{where}. Make room and run the same command again: it resumes."
    if error.errno == errno.EFBIG:
        return (
            f"A file became larger than this shell or file system allows{where}. Raise the limit (ulimit -f "
            "unlimited), or choose another place, and run the same command again: it resumes."
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return _MEMORY_FULL
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Too many files are open. Raise the limit (ulimit -n 4096), or work with fewer --workers."
    if error.errno == errno.ENOENT and error.filename:
        return f"{error.filename} does not exist. Put it there, or choose another place."
    if error.errno is None:
        return None
    prefix = f"{error.filename}: " if error.filename else ""
    return (
        f"{prefix}{error.strerror}. The system refused this. Check the disk and the network, and run the same command "
        "again."
    )


def memory_error(error: Exception) -> str | None:
    """The error line if the memory of the machine or of the GPU is full; None for any other error."""
    if is_out_of_host_memory(error) or any(sign in str(error) for sign in _STARTING_SIGNS):
        return _MEMORY_FULL
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: light commands do not import torch
        return _GPU_MEMORY_FULL
    if "File too large" in str(error):  # torch's for shared memory
        return system_error(OSError(errno.EFBIG, "File too large"))
    return None


def loop_error(error: Exception) -> str | None:
    """The error line for a link that points to itself, which pathlib reports before Python 3.13; None for any other."""
    return f"{error}: this link points to itself. Remove it." if "Symlink loop" in str(error) else None


def module_error(error: ModuleNotFoundError) -> str | None:
    """The error line for a missing module of an extra; None for any other module."""
    extra = missing_extra(error)
    return None if extra is None else f"The module {error.name} is not installed: {advice(extra)}"
