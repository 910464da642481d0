"""`tds_report`: write a report with pictures as one HTML file."""

import argparse
from pathlib import Path

from plans.commands import command_line
from plans.layout import REPORT
from textdiffseg_cli.common import add_root, command, print_lines, run
from textdiffseg_cli.output import add_output, print_json


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_report`."""
    parser = command(
        "tds_report",
        "Write a report as one HTML file: scores, pictures of cases, a 3D viewer, training, data and plan. It opens "
        "from disk, without a network. Of a folder of segmentations: what to check first, volumes and pictures.",
        """
        tds_report 4
        tds_report Hippocampus -o hippocampus.html --preset unet
        tds_report results/Dataset004_Hippocampus/default
        tds_report segmentations --scans scans -o segmentations/report.html
        """,
    )
    parser.add_argument(
        "source",
        metavar="DATASET|FOLDER",
        help="a data set (id, name or folder name), a folder of results, or a folder of segmentations",
    )
    parser.add_argument(
        "-o", dest="out", type=Path, default=Path(REPORT), metavar="FILE", help=f"the HTML file (default: {REPORT})"
    )
    parser.add_argument("--scans", type=Path, metavar="IN", help="the scans of the segmentations; pictures need them")
    parser.add_argument("--series", metavar="UID", help="the DICOM series that was segmented, if it was chosen")
    parser.add_argument(
        "--preset", metavar="NAME", help="the preset to show in detail; the others are compared with it"
    )
    parser.add_argument("--title", metavar="TEXT", help="title of the page (default: the name of the data set)")
    add_root(parser)
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_report, make_parser().parse_args(argv))


def _report(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    options = {name: getattr(args, name) for name in ("root", "preset", "scans", "series", "title")}
    with Bars(args.quiet, args.json) as bars:
        written = tds.write_report(args.source, args.out, report=bars.print_line, progress=bars, **options)
    if args.json:
        print_json({"page": written})
        return
    print_lines(f"Written: {written}. Open it in a browser.")
    if not Path(args.source).is_dir():
        print_lines(f"Next: {command_line('tds_status', args.source, root=args.root)}")
