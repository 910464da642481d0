"""`tds_import_model`: the folder of a model from a file of `tds_export_model`."""

import argparse
from pathlib import Path

from plans.commands import predict_command
from textdiffseg_cli.common import add_root, command, print_lines, run
from textdiffseg_cli.output import print_json


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
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_import, make_parser().parse_args(argv))


def _import(args: argparse.Namespace) -> None:
    import textdiffseg as tds

    folder = tds.import_model(args.package, folder=args.output, root=args.root)
    if args.json:
        print_json({"folder": folder})
        return
    print_lines(f"Written: {folder}")
    print_lines(f"Next: {predict_command(folder)}")
