"""`tds_evaluate`: score predictions against references."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from plans.layout import REPORT, SUMMARY
from textdiffseg_cli.common import command, console, positive_float, print_lines, run, whole_number
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.evaluation.summary import Summary


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_evaluate`."""
    parser = command(
        "tds_evaluate",
        "Score segmentations against references. The scores are Dice, NSD, HD95 and volumes: for each case, for each "
        "label, and as means.",
        """
        tds_evaluate predictions raw/Dataset004_Hippocampus/labelsTs
        tds_evaluate predictions references -o summary.json --csv scores.csv --cases
        tds_evaluate case7.nii.gz reference7.nii.gz --tolerance-mm 2
        tds_evaluate predictions references --against other_predictions
        tds_evaluate predictions references --lesions "liver tumour"
        """,
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of segmentations, or one file")
    parser.add_argument(
        "references",
        type=Path,
        metavar="REFERENCES",
        help="folder of references (files of the same names), or one file",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write all scores as JSON (e.g. summary.json)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write all scores as CSV, one row per case and label (e.g. scores.csv)"
    )
    parser.add_argument(
        "--tolerance-mm",
        type=positive_float,
        default=1.0,
        metavar="MM",
        help="tolerance of NSD: surfaces this close count as equal (default: 1)",
    )
    _add_comparison_and_lesions(parser)
    parser.add_argument("--cases", action="store_true", help="also print the scores of each case")
    parser.add_argument(
        "--partial", action="store_true", help="leave out references without a prediction, instead of stopping"
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        default=0,
        metavar="N",
        help="number of processes; 0 means no extra process (default: 0)",
    )
    add_output(parser)
    return parser


def _add_comparison_and_lesions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="compare with other segmentations of the same scans: differences with 95%% intervals and p-values",
    )
    parser.add_argument(
        "--lesions",
        nargs="*",
        action="extend",
        metavar="LABEL",
        help="also score single lesions of these labels (default: of all); put this option behind the two folders",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_evaluate, make_parser().parse_args(argv))


def _evaluate(args: argparse.Namespace) -> None:
    from textdiffseg.tasks.evaluate import ScoresNotWrittenError

    try:
        summary = _scores(args)
    except ScoresNotWrittenError as error:
        if error.summary is not None:
            _print(error.summary, args)
        raise
    _print(summary, args)
    if not args.json:
        _print_next(args)


def _scores(args: argparse.Namespace) -> "Summary":
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    with Bars(args.quiet, args.json) as bars:
        return tds.evaluate(
            args.predictions,
            args.references,
            tolerance_mm=args.tolerance_mm,
            partial=args.partial,
            against=args.against,
            lesions=args.lesions,
            workers=args.workers,
            output=args.output,
            csv=args.csv,
            progress=bars,
        )


def _print(summary: "Summary", args: argparse.Namespace) -> None:
    """Print the tables of the scores, or all scores as JSON."""
    from textdiffseg_cli.tables import cases_table, comparison_table, lesions_table, summary_table

    if args.json:
        print_json(summary)
        return
    out = console()
    if args.cases:
        out.print(cases_table(summary))
        out.print()
    out.print(summary_table(summary))
    if summary.mean.lesions is not None:
        out.print(lesions_table(summary))
    if summary.comparison is not None:
        out.print(comparison_table(summary.comparison))
    rules = (summary.empty_rule, f"NSD: {summary.nsd_definition}", f"HD95: {summary.hd95_definition}")
    compared = None if summary.comparison is None else summary.comparison.rule
    for line in filter(None, (*rules, summary.rater_rule, summary.ged_rule, summary.lesion_rule, compared)):
        out.print(line, style="dim", highlight=False)
    for note in summary.notes:
        out.print(f"Note: {note}", highlight=False)


def _print_next(args: argparse.Namespace) -> None:
    """Print the written files, and what can be done with the scores."""
    out = console()
    for path in filter(None, (args.output, args.csv)):
        out.print(f"Written: {path}", highlight=False)
    if args.output is not None and args.output == args.predictions / SUMMARY:
        report_command = ["tds_report", str(args.predictions), "--scans", "SCANS", "-o", str(args.predictions / REPORT)]
        print_lines(f"Next: {shlex.join(report_command)}")
    if args.output is None and args.csv is None:
        out.print("To keep these scores, add -o summary.json or --csv scores.csv.", highlight=False)
