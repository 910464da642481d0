"""`export_model` and `import_model`: a trained model as one file."""

from collections.abc import Sequence
from pathlib import Path

from plans.layout import model_folder
from textdiffseg.arguments import path_of
from textdiffseg.folds import package as packages
from textdiffseg.folds import unpacking
from textdiffseg.folds.ensemble import names_of_folds
from textdiffseg.folds.find import find_model
from textdiffseg.progress import OnProgress, Report, silent


def export_model(
    package: Path | str,
    *,
    dataset: str | None = None,
    model: Path | str | None = None,
    root: Path | str = ".",
    preset: str | None = None,
    folds: Sequence[str | int] | None = None,
    keep_identifiers: bool = False,
    progress: OnProgress = silent,
) -> packages.Package:
    """Write a trained model to one file, and return what the file holds.

    Args:
        package: the file to write.
        dataset, preset: the data set and the preset of the model below `root`.
        model: instead: the model's folder.
        root: holds results/.
        folds: names of the folds; None: all finished folds.
        keep_identifiers: keep the ids of the training and validation cases.
        progress: called while the file is written.

    Raises `UserError` if there is not exactly one such model, or if it has no finished fold.
    """
    folder = find_model(path_of(root), dataset, None if model is None else path_of(model), preset)
    return packages.export_model(folder, path_of(package), names_of_folds(folds), keep_identifiers, progress)


def import_model(
    package: Path | str,
    *,
    folder: Path | str | None = None,
    root: Path | str = ".",
    report: Report = silent,
    progress: OnProgress = silent,
) -> Path:
    """The folder of a model from a packaged file.

    Args:
        package: a file of `export_model`.
        folder: the folder to write; None: below `root`, in results/DATASET/ under the model's own name.
        root: holds results/.
        report: called with one sentence: the model was written, or it was there already.
        progress: called while the folder is written.

    Raises `UserError` if the file is damaged or holds anything else than a model, or if the folder holds anything else.
    """
    source = path_of(package)
    manifest = packages.read_package(source)
    target = model_folder(path_of(root), manifest.dataset, manifest.model) if folder is None else path_of(folder)
    was_written = unpacking.import_model(source, target, progress)
    report(f"Written: {target}" if was_written else f"{target} holds this model already. Nothing was written.")
    return target
