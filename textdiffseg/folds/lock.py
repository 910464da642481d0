"""One process a fold."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from plans.errors import UserError
from plans.layout import FoldFolder


@contextmanager
def alone(fold: FoldFolder) -> Iterator[None]:
    """Hold a fold's folder for this process; `UserError` where another one holds it.

    The lock lies beside the folder, so that a restart may delete that, and ends with the process however it ends.
    Where the file system has no locks there is none.
    """
    fold.path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(fold.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{fold.path}: another tds_train is at work here. Wait for it, or stop it; if there is none, delete "
            f"{lock.lock_file}."
        ) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        yield
    finally:
        lock.release()
