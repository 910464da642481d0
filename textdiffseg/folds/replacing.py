"""A restart keeps the old fold until the new run has a checkpoint of its own.

The old folder is moved aside (`FoldFolder.replaced`), under a name that no fold has. It is deleted when the new run has
written its first checkpoint. If the run fails before that, the old folder is moved back, at the latest at the next
start.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.progress import Report


def refuse_irreplaceable(fold: FoldFolder) -> None:
    """Raise `UserError` if a fold's folder could not be moved aside and deleted."""
    path = fold.path
    if path.is_symlink():
        raise UserError(
            f"--restart: {path} is a link to {path.resolve()}. The target is not changed. Remove the link, then "
            "train without --restart."
        )
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"--restart: {path} is a file, expected the folder of a fold. Move it away.")
    if os.path.ismount(path):
        raise UserError(f"--restart: {path} is a mount point and cannot be moved aside. Empty the folder yourself.")
    folders = [path.parent, path, *(inner for inner in path.rglob("*") if inner.is_dir() and not inner.is_symlink())]
    if closed := [str(folder) for folder in folders if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]:
        raise UserError(
            f"--restart: {', '.join(closed)} cannot be written. Correct the permissions, or use another --root."
        )


@contextmanager
def replaced(fold: FoldFolder, restart: bool, report: Report) -> Iterator[None]:
    """Train a fold in the context. `restart` moves its old folder aside, and back if the new run has no checkpoint."""
    if not restart:
        yield
        return
    set_aside(fold)
    try:
        yield
    finally:
        put_back(fold, report)


def set_aside(fold: FoldFolder) -> None:
    """Move a fold's folder aside. Raises `UserError` if it cannot be moved."""
    refuse_irreplaceable(fold)
    if fold.path.exists():
        try:
            fold.path.rename(fold.replaced)
        except OSError as error:
            raise UserError(
                f"--restart: {fold.path} cannot be moved aside ({error.strerror}). Nothing was changed; move it away "
                "yourself, then train without --restart."
            ) from None


def put_back(fold: FoldFolder, report: Report) -> None:
    """Move the old folder back if the new run has no checkpoint; else delete it."""
    if not fold.replaced.is_dir():
        return
    if fold.checkpoint("latest").is_file():
        discard(fold, report)
        return
    try:
        if fold.path.exists():
            shutil.rmtree(fold.path)
        fold.replaced.rename(fold.path)
    except OSError as error:
        raise UserError(
            f"{fold.replaced} cannot be moved back to {fold.path} ({error.strerror}). It holds the fold as it was "
            "before --restart. Move it back yourself."
        ) from error
    report(f"{fold.path} is as it was before --restart: the new run had no checkpoint yet.")


def discard(fold: FoldFolder, report: Report) -> None:
    """Delete the old folder, once the new run has a checkpoint."""
    if not fold.replaced.is_dir():
        return
    try:
        shutil.rmtree(fold.replaced)
    except OSError as error:
        report(f"Note: {fold.replaced}, the fold before --restart, cannot be deleted: {error.strerror}. Delete it.")
