"""The line of a failure that the user can correct: a full disk, full memory, a missing library."""

import errno

from textdiffseg.extras import advice, missing_extra
from textdiffseg.resources import is_out_of_host_memory

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


def failure_line(error: Exception, resumes: bool) -> str | None:
    """The line of an error that the user can correct; None for a bug, and for a `UserError`, which has its own lines.

    resumes: whether the work goes on where it stopped if it is started again.
    """
    if isinstance(error, OSError):
        return _system_error(error, ": it resumes" if resumes else "")
    if isinstance(error, ModuleNotFoundError):
        return _module_error(error)
    if isinstance(error, MemoryError | ImportError | RuntimeError):
        return _memory_error(error) or _loop_error(error)
    return None


def _system_error(error: OSError, resumes: str) -> str | None:
    """The line of a system error; None for one without a number, which a library raised."""
    where = f" while writing {error.filename}" if error.filename else ""
    if error.errno == errno.EISDIR and error.filename:
        return f"{error.filename} is a folder, expected a file. Move it away and run the same command again."
    if error.errno in _NOT_WRITABLE and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another place, or correct its permissions."
    if error.errno == errno.ENAMETOOLONG and error.filename:
        return f"{error.filename}: the name is too long for this file system. Choose a shorter one."
    if error.errno in _DISK_FULL:
        return f"The disk is full{where}. Make room and run the same command again{resumes}."
    if error.errno == errno.EFBIG:
        return (
            f"A file became larger than this shell or file system allows{where}. Raise the limit (ulimit -f "
            f"unlimited), or choose another place, and run the same command again{resumes}."
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


def _memory_error(error: Exception) -> str | None:
    """The line if the memory of the machine or of the GPU is full; None for any other error."""
    if is_out_of_host_memory(error) or any(sign in str(error) for sign in _STARTING_SIGNS):
        return _MEMORY_FULL
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: light commands do not import torch
        return _GPU_MEMORY_FULL
    if "File too large" in str(error):  # torch's for shared memory
        return _system_error(OSError(errno.EFBIG, "File too large"), "")
    return None


def _loop_error(error: Exception) -> str | None:
    """The line for a link that points to itself, which pathlib reports before Python 3.13; None for any other."""
    return f"{error}: this link points to itself. Remove it." if "Symlink loop" in str(error) else None


def _module_error(error: ModuleNotFoundError) -> str | None:
    """The line for a missing module of an extra; None for any other module."""
    extra = missing_extra(error)
    return None if extra is None else f"The module {error.name} is not installed: {advice(extra)}"
