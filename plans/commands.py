"""Command lines that messages name: a user can copy and paste them."""

import shlex
from pathlib import Path

from plans.choices import Preset, Resolution


def command_line(
    command: str,
    dataset: str,
    *more: str,
    preset: Preset = "default",
    resolution: Resolution = "full",
    root: Path | None = None,
) -> str:
    """A command for a data set. What is the default is left out. `root` None: it is not known."""
    options = [] if preset == "default" else ["--preset", preset]
    options += [] if resolution == "full" else ["--resolution", resolution]
    options += [] if root is None or root.resolve() == Path.cwd() else ["--root", str(root)]
    return shlex.join([command, dataset, *more, *options])


def predict_command(model: Path) -> str:
    """The command that segments scans with the model in a folder."""
    return shlex.join(["tds_predict", "-i", "SCANS", "-o", "SEGMENTATIONS", "-m", str(model)])


def predict_best_command(dataset: str, root: Path) -> str:
    """The command that segments scans with the models that `tds_find_best` chose."""
    return command_line("tds_predict", "-i", "SCANS", "-o", "SEGMENTATIONS", "-d", dataset, root=root)
