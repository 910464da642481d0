"""`tds_find_best`: compare the trained models of a data set, and choose the best for prediction."""

import argparse
from typing import TYPE_CHECKING

from plans.commands import predict_best_command
from textdiffseg.resources import DEVICES
from textdiffseg_cli.common import add_root, command, console, print_lines, run
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.folds.best import Candidate
    from textdiffseg.tasks.find_best import ModelChoice


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_find_best`."""
    parser = command(
        "tds_find_best",
        "Compare the trained presets and resolutions of a data set, and pairs of them, on their common validation "
        "cases. tds_predict then uses the best.",
        """
        tds_find_best 4
        tds_find_best Hippocampus --no-pairs
        """,
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set: id, name or folder name")
    add_root(parser)
    parser.add_argument(
        "--no-pairs",
        dest="pairs",
        action="store_false",
        help="do not average pairs of models; they are predicted on the validation cases, which takes time",
    )
    parser.add_argument("--device", choices=DEVICES, help="where to predict pairs (default: cuda if there is a GPU)")
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_find_best, make_parser().parse_args(argv), resumes=True)


def _find_best(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars
    from textdiffseg_cli.threads import idle_cores_only

    with Bars(args.quiet, args.json) as bars, idle_cores_only(bars.print_line):
        choice = tds.find_best(
            args.dataset,
            root=args.root,
            pairs=args.pairs,
            device=args.device,
            report=bars.print_line,
            progress=bars,
        )
    if args.json:
        print_json(choice)
        return
    _print(choice)
    print_lines(f"Next: {predict_best_command(choice.record.dataset, args.root)}")


def _print(choice: "ModelChoice") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from textdiffseg_cli.tables import decimals

    record = choice.record
    title = f"{record.cases} validation cases{' that all models have' if len(record.candidates) > 1 else ''}"
    table = Table("model", box=SIMPLE_HEAD, show_edge=False, title=title, title_justify="left")
    for name in ("mean Dice", "NSD", "Dice minus best single model"):
        table.add_column(name, justify="right")
    for candidate in record.candidates:
        style = "bold" if candidate.models == record.models else None
        scores = (decimals(candidate.dice), decimals(candidate.nsd), _difference(candidate))
        table.add_row(" and ".join(candidate.models), *scores, style=style)
    console().print(table)
    averaged = len(record.models) > 1
    print_lines(f"Best: {' and '.join(record.models)}{', averaged' if averaged else ''}. Written to {choice.file}.")
    for label, step in choice.postprocessing.items():
        print_lines(f"Postprocessing of {label}: {step}.")


def _difference(candidate: "Candidate") -> str:
    """The difference with its interval: `-0.0021 [-0.0043, 0.0001]`."""
    if candidate.difference is None:
        return ""
    interval = "" if candidate.interval_95 is None else " [{:+.4f}, {:+.4f}]".format(*candidate.interval_95)
    return f"{candidate.difference:+.4f}{interval}"
