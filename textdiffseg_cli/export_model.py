"""`tds_export_model`: write a trained model to one file."""

import argparse
import shlex
from pathlib import Path

from textdiffseg_cli.common import add_model, add_root, command, print_lines, run
from textdiffseg_cli.output import add_output, print_json


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_export_model`."""
    parser = command(
        "tds_export_model",
        "Write a trained model to one file with a hash for each part, to send it elsewhere. tds_import_model reads it. "
        "The ids of training cases are left out, and those of scores are replaced by numbers.",
        """
        tds_export_model 4 -o hippocampus.zip
        tds_export_model -m results/Dataset004_Hippocampus/default -o hippocampus.zip --folds 0 1
        """,
    )
    add_model(parser)
    add_root(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to export (default: all finished ones)")
    parser.add_argument("--keep-identifiers", action="store_true", help="keep the ids of training and validation cases")
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_export, make_parser().parse_args(argv))


def _export(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    with Bars(args.quiet, args.json) as bars:
        package = tds.export_model(
            args.output,
            dataset=args.dataset,
            model=args.model,
            root=args.root,
            preset=args.preset,
            folds=args.folds,
            keep_identifiers=args.keep_identifiers,
            progress=bars,
        )
    folds = sorted({name.partition("/")[0] for name in package.files})
    if args.json:
        names = {"dataset": package.dataset, "model": package.model, "folds": folds}
        print_json({"file": args.output, **names, "identifiers": package.identifiers})
        return
    size = args.output.stat().st_size / 1e6
    print_lines(f"Written: {args.output} ({size:.1f} MB): {package.dataset}, {package.model}, {', '.join(folds)}.")
    print_lines("It holds the ids of cases." if package.identifiers else "It holds no ids of cases.")
    print_lines(f"Next, on another machine: {shlex.join(['tds_import_model', args.output.name])}")
