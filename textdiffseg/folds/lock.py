"""Locks: one process per fold, and no planning during training.

A lock ends with its process. It works between hosts if the file system has locks. If the file system has none, nothing
is locked. Any other failure is an error, and so is a lock that is a link.
"""

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder, locked_folds
from plans.records import Record
from textdiffseg.files import write_record

MAX_WAIT_SECONDS = 1.0  # `is_held` holds a lock for a moment
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # of the file system


class FoldOwner(Record):
    """`.fold_N.owner.json`: the process that holds a fold. It counts only while the lock is held."""

    version: Literal[1] = 1
    host: str
    process: int = Field(ge=0)
    since: float  # seconds since 1970


class Busy(UserError):
    """Another process is at work."""


@contextmanager
def alone(fold: FoldFolder) -> Iterator[None]:
    """Hold a fold's folder for this process. Raises `Busy` if another process holds it."""
    refusal = f"{fold.path}: another tds_train is at work here. Wait for it, or stop it. If there is none, delete"
    with _hold(fold.lock, f"{refusal} {fold.lock}."):
        with _naming_folder(fold.owner.parent):
            write_record(fold.owner, FoldOwner(host=platform.node(), process=os.getpid(), since=time.time()))
        try:
            yield
        finally:
            with suppress(OSError):
                fold.owner.unlink(missing_ok=True)


def owner_of(fold: FoldFolder) -> FoldOwner | None:
    """The process that holds a fold; None if it is not known."""
    try:
        return FoldOwner.read(fold.owner) if fold.owner.is_file() else None
    except UserError:  # it ended in this moment
        return None


@contextmanager
def planning_alone(folder: PreprocessedFolder, root: Path) -> Iterator[None]:
    """Hold a preprocessed data set during planning.

    Raises `Busy` if another process plans it, and `UserError` if one trains on it.
    """
    with _hold(folder.planning_lock, _planned(folder)):
        if training := [str(fold.path) for fold in locked_folds(root, folder.path.name) if is_held(fold.lock)]:
            raise UserError(
                f"tds_train is at work on {', '.join(training)}, and planning may change the cases that it reads. "
                "Wait for it, or stop it (it can be resumed). Then plan again."
            )
        yield


def refuse_while_planned(folder: PreprocessedFolder) -> None:
    """Raise `Busy` if another process plans the data set. The caller must hold the fold."""
    if is_held(folder.planning_lock):
        raise Busy(_planned(folder))


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock. Wait until no other process holds it."""
    with _hold(lock, "", wait_seconds=-1):
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock. False if this is not known."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


@contextmanager
def _hold(path: Path, refusal: str, wait_seconds: float = MAX_WAIT_SECONDS) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise UserError(f"{path} is a link, expected a plain file: it locks this folder. Delete the link.")
    lock = FileLock(path)
    try:
        with _naming_folder(path.parent):
            lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise Busy(refusal) from None
    except NotImplementedError:  # ENOSYS in filelock 3
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _naming_folder(folder: Path) -> Iterator[None]:
    """Give a system error the name of the folder, as a user does not know the hidden files in it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # filelock's Timeout
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


def _planned(folder: PreprocessedFolder) -> str:
    return (
        f"{folder.path}: tds_plan_and_preprocess is at work here. Wait for it, or stop it. If there is none, delete "
        f"{folder.planning_lock}."
    )
