"""The folder of a model from the file that `package` writes.

Names, links, sizes and hashes are checked before the folder has its name. Nothing in the file is run.
"""

import os
import shutil
import zipfile
from pathlib import Path

from plans.errors import UserError, printable
from plans.layout import FOLD_NAME, FoldFolder
from plans.plan import Plan
from textdiffseg.evaluation.summary import Summary
from textdiffseg.files import copy_parts, naming, new_folders, temporary_name
from textdiffseg.folds.agreement import check_together
from textdiffseg.folds.calibration import read_calibration
from textdiffseg.folds.ensemble import chosen_folds
from textdiffseg.folds.package import COPY_AGAIN, MANIFEST, Package, read_package
from textdiffseg.folds.postprocessing import read_postprocessing
from textdiffseg.folds.sampling import read_sampling
from textdiffseg.imaging.sources.streams import Damaged, zip_faults_as_damage
from textdiffseg.leftovers import sweep
from textdiffseg.progress import OnProgress, bytes_reporter, silent


def import_model(package: Path, folder: Path, progress: OnProgress = silent) -> bool:
    """Write the folds of a packaged model below `folder`. False: they were there already, and nothing was written.

    After any failure nothing of the model is there.

    Raises `UserError` if the file is damaged, if it does not hold a model, or if `folder` holds anything else, has the
    name of a fold or lies behind a link that leads nowhere.
    """
    manifest = read_package(package)
    if FOLD_NAME.fullmatch(folder.name):
        raise UserError(f"{folder}: this name is that of a fold. Choose another folder with -o.")
    if _is_imported(folder, manifest):
        _refuse_unreadable(folder, manifest, package)
        return False
    if folder.exists():
        raise UserError(f"{folder} exists already. Move it away, or choose another folder with -o.")
    _refuse_dangling(folder)
    sweep([folder.parent])
    with new_folders(folder.parent):
        _write(package, folder, manifest, progress)
    return True


def _write(package: Path, folder: Path, manifest: Package, progress: OnProgress) -> None:
    """Write the folds into a temporary folder, check them, and give it the name of `folder`."""
    temporary = folder.with_name(temporary_name(folder.name))
    written = bytes_reporter(progress, "Import", sum(file.size for file in manifest.files.values()))
    try:
        with naming(folder), zip_faults_as_damage(), zipfile.ZipFile(package) as archive:
            for name, expected in manifest.files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, path.open("xb") as target:
                    copy_parts(source, target, written)
                if fault := expected.fault_of(path):
                    raise UserError(f"{package}: {name} is damaged ({fault}). {COPY_AGAIN}")
        _refuse_unreadable(temporary, manifest, package)
        temporary.rename(folder)
    except Damaged as error:
        raise UserError(f"{package} is damaged ({error}). {COPY_AGAIN}") from None
    except OSError as error:
        if not str(error.filename).startswith(str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error  # the temporary name would confuse
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_imported(folder: Path, manifest: Package) -> bool:
    """Whether a folder holds all files of a package, unchanged, e.g. of a run that was stopped at its end."""
    try:
        faults = [expected.fault_of(folder / name) for name, expected in manifest.files.items()]
        return folder.is_dir() and not any(faults)
    except OSError:  # a file is missing
        return False


def _refuse_dangling(folder: Path) -> None:
    """Raise `UserError` if a folder is, or lies below, a link that leads nowhere."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {printable(os.readlink(path))}, which is not there. Remove the link, or choose "
                "another folder with -o."
            )


def _refuse_unreadable(model: Path, manifest: Package, package: Path) -> None:
    """Raise `UserError` unless each fold in a temporary folder is trained and can be read."""
    folds = [FoldFolder(model / name) for name in sorted({name.partition("/")[0] for name in manifest.files})]
    if not folds or not all(fold.checkpoint("best").is_file() and fold.plan.is_file() for fold in folds):
        raise UserError(f"{package} holds no trained model, or a fold without its weights. Export the model again.")
    try:
        chosen_folds(model, None, "best")
        check_together(folds)
        for fold in folds:
            if Plan.read(fold.plan).dataset != manifest.dataset:
                raise UserError(f"{fold.plan} is not of {manifest.dataset}, as {MANIFEST} says. Do not use this file.")
            read_sampling(fold)  # these raise if a record cannot be read
            read_calibration(fold)
            read_postprocessing(fold, "best")
            if fold.summary.is_file():
                Summary.read(fold.summary)
    except UserError as error:
        raise UserError(*(line.replace(f"{model}/", f"{package}: ") for line in error.lines)) from None
