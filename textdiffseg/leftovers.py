"""What processes that were killed left behind: files and folders under temporary names (`files.temporary_name`).

The names hold a tag of the machine and the number of the process that made them. What a dead process of this machine
left is deleted at once. Of other machines that share the disk nothing is known, so only what is older than a day is
deleted: no write takes that long. A tag stands for one start of the machine and one space of process numbers, so that
numbers of another container, or of before a restart, are not mistaken for this one's.
"""

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from textdiffseg.files import TemporaryOwner, machine_tag

MAX_AGE_SECONDS = 24 * 3600.0  # of what another machine writes


def sweep(folders: Iterable[Path]) -> int:
    """Delete what dead processes left directly in the folders, where they exist; returns how much that was."""
    swept = 0
    for folder in folders:
        with suppress(OSError):  # no such folder, or one that may not be read: its user sweeps it
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
    except OSError:  # another start swept it
        return False


def _delete(path: Path) -> bool:
    with suppress(OSError):  # not ours to delete
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    return not path.exists()
