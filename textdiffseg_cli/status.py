"""`tds_status`: what is done for a data set, and what is not."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textdiffseg_cli.common import add_root, command, console, print_lines, run
from textdiffseg_cli.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from textdiffseg.tasks.fold_status import FoldStatus
    from textdiffseg.tasks.status import DatasetStatus

MAX_LABELS = 4  # with a column of their own


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_status`."""
    parser = command(
        "tds_status",
        "Show the plans of a data set, its stored cases, and the state of each fold. Nothing is changed.",
        """
        tds_status 4
        tds_status Hippocampus --json
        """,
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set: id, name or folder name")
    add_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with all numbers")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_status, make_parser().parse_args(argv))


def _status(args: argparse.Namespace) -> None:
    import textdiffseg as tds

    dataset_status = tds.status(args.dataset, root=args.root)
    if args.json:
        print_json(dataset_status)
        return
    _print(dataset_status)


def _print(dataset_status: "DatasetStatus") -> None:
    from plans.planning.rules import sizes_text

    total = "" if dataset_status.cases is None else f" of {dataset_status.cases}"
    print_lines(f"{dataset_status.dataset}: {dataset_status.stored}{total} cases are stored.")
    if dataset_status.planning:
        print_lines("It is being planned now.")
    for preset in dataset_status.presets:
        low = "" if preset.resolution == "full" else ", low resolution"
        if preset.patch is not None and preset.spacing is not None:
            device = "a GPU" if preset.device == "gpu" else "the CPU"
            patch, spacing = sizes_text(preset.patch), sizes_text(preset.spacing)
            planned = f"planned for {device}, patch {patch} voxels, spacing {spacing} mm"
            print_lines(f"Preset {preset.preset}{low}: {planned}.")
        elif preset.error is not None:
            print_lines(f"Preset {preset.preset}{low}: damaged: {preset.error}")
        else:
            print_lines(f"Preset {preset.preset}{low}: trained folds without a plan.")
        console().print(folds_table(f"{preset.preset}{low}", preset.folds))
        for fold in preset.folds:
            if fold.state in ("interrupted", "trained"):
                print_lines(f"To go on with fold {fold.fold}: {fold.command}")
            elif fold.state == "damaged" and fold.command:
                print_lines(f"To make fold {fold.fold} again: {fold.command}")
    if not dataset_status.presets:
        print_lines("It is not planned yet.")
    print_lines(*dataset_status.notes, f"Next: {dataset_status.next}")


def folds_table(preset: str, folds: "Sequence[FoldStatus]") -> "Table":
    """The state of each fold: one row per fold, then the mean Dice."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from plans.layout import ALL
    from textdiffseg.evaluation.means import mean_of_defined

    labels = list(dict.fromkeys(name for fold in folds for name in fold.labels or {}))
    shown = labels if len(labels) <= MAX_LABELS else []
    table = Table("fold", box=SIMPLE_HEAD, show_edge=False, title=f"Folds of {preset}", title_justify="left")
    table.add_column("state", overflow="fold")  # paths are not cut
    for name in ("mean Dice", *shown):
        table.add_column(name, justify="right")
    for fold in folds:
        scores = [_digits((fold.labels or {}).get(name)) for name in shown]
        table.add_row(fold.fold, _state(fold), _digits(fold.dice), *scores)
    known = [fold for fold in folds if fold.dice is not None and fold.fold != ALL]  # all: scores on training cases
    if len(known) > 1:
        means = [mean_of_defined((fold.labels or {}).get(name) for fold in known) for name in shown]
        table.add_section()
        table.add_row("mean", "", *map(_digits, (mean_of_defined(fold.dice for fold in known), *means)), style="bold")
    return table


def _state(fold: "FoldStatus") -> str:
    """The state in a few words: `running on host, process 12, 40 of 90 iterations, 5 minutes left`.

    If an error ended the last try: `failed: reason`. If a file cannot be read: `damaged: reason`.
    """
    from datetime import datetime

    from textdiffseg.pace import duration

    words: list[str] = [fold.state]
    if fold.error is not None:
        words[0] = f"{'damaged' if fold.state == 'damaged' else 'failed'}: {fold.error.removesuffix('.')}"
    if fold.state == "running":
        if fold.host is not None:
            words[0] += f" on {fold.host}, process {fold.process}"
        if fold.since is not None:
            words.append(f"since {datetime.fromtimestamp(fold.since):%d %b %H:%M}")
    if fold.state in ("running", "interrupted") and fold.iterations:
        words.append(f"{fold.iteration} of {fold.iterations} iterations")
        if fold.state == "running" and fold.iteration == fold.iterations:
            words.append("now in validation")
    if fold.seconds_left is not None:
        words.append(f"{duration(fold.seconds_left)} left")
    if fold.state in ("trained", "validated") and fold.seconds:
        words.append(f"trained for {duration(fold.seconds)}")
    return ", ".join(words)


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
