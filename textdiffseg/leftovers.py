"""Deletion of the temporary files and folders of killed processes (`files.temporary_name`).

A temporary name contains a tag of the machine and the number of the process. Leftovers of a dead process on this
machine are deleted at once. The state of processes on other machines is unknown, so their leftovers are deleted after a
day; no write takes that long.

A tag identifies one start of the machine and one namespace of process numbers. So process numbers of another container,
or from before a restart, are not confused with current ones.
"""

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from textdiffseg.files import TemporaryOwner, machine_tag

MAX_AGE_SECONDS = 24 * 3600.0  # of another machine's temporary files


def sweep(folders: Iterable[Path]) -> int:
    """The number of leftovers of dead processes that were deleted directly in the folders. A folder may be missing."""
    swept = 0
    for folder in folders:
        with suppress(OSError):  # the folder is missing, or another user's
            for path in sorted(folder.iterdir()):
                owner = TemporaryOwner.of(path.name)
                if owner is not None and _is_dead(owner, path):
                    swept += _delete(path)
    return swept


def _is_dead(owner: TemporaryOwner, path: Path) -> bool:
    if owner.machine == machine_tag():
        return not psutil.pid_exists(owner.process)
    try:
        return time.time() - path.lstat().st_mtime > MAX_AGE_SECONDS
    except OSError:  # another process deleted it
        return False


def _delete(path: Path) -> bool:
    with suppress(OSError):  # another user's
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    return not path.exists()
