"""`tds_finalize`: join folds that were trained on several machines."""

import argparse
from typing import TYPE_CHECKING

from plans.choices import PRESETS, RESOLUTIONS
from plans.commands import predict_command
from textdiffseg_cli.common import add_root, command, console, print_lines, run
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.tasks.finalize import JoinedFolds


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_finalize`."""
    parser = command(
        "tds_finalize",
        "Copy folds that were trained on other machines into one results folder. Before that, check that all folds "
        "belong together.",
        """
        tds_finalize 4 /media/machine2/results /media/machine3/results
        tds_finalize Hippocampus copied/fold_1 copied/fold_2 --root /data
        """,
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set: id, name or folder name")
    parser.add_argument("sources", nargs="+", metavar="FOLDER", help="a fold, a model, or a folder of results")
    add_root(parser)
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="preset of the folds (default: the only one)")
    parser.add_argument("--resolution", choices=RESOLUTIONS, default="full", help="that of the folds (default: full)")
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_finalize, make_parser().parse_args(argv))


def _finalize(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    joined = tds.finalize(
        args.dataset,
        args.sources,
        root=args.root,
        preset=args.preset,
        resolution=args.resolution,
        report=Bars(args.quiet, args.json).print_line,
    )
    if args.json:
        print_json(joined)
    else:
        _print(joined)


def _print(joined: "JoinedFolds") -> None:
    from textdiffseg_cli.status import folds_table

    console().print(folds_table(joined.model.name, joined.folds))
    if not joined.copied:
        print_lines(f"All of these folds are in {joined.model} already.")
    print_lines(f"Model: {joined.model}")
    print_lines(f"Next: {predict_command(joined.model)}")
