"""`tds_import_model`: the folder of a model from a file of `tds_export_model`."""

import argparse
from pathlib import Path

from plans.commands import predict_command
from textdiffseg_cli.common import add_root, command, print_lines, run
from textdiffseg_cli.output import add_output, print_json


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_import_model`."""
    parser = command(
        "tds_import_model",
        "Write the model in a file of tds_export_model to a folder. Names, links, sizes and hashes are checked first. "
        "Nothing in the file is run.",
        """
        tds_import_model hippocampus.zip
        tds_import_model hippocampus.zip -o models/hippocampus
        """,
    )
    parser.add_argument("package", type=Path, metavar="FILE", help="a file of tds_export_model")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="folder to write (default: below results/ of --root)"
    )
    add_root(parser)
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_import, make_parser().parse_args(argv))


def _import(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    lines: list[str] = []
    with Bars(args.quiet, args.json) as bars:
        folder = tds.import_model(args.package, folder=args.output, root=args.root, report=lines.append, progress=bars)
    if args.json:
        print_json({"folder": folder})
        return
    print_lines(*lines, f"Next: {predict_command(folder)}")
