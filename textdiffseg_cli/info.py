"""`tds_info`: what a trained model segments, how well, and what it needs."""

import argparse
from typing import TYPE_CHECKING

from plans.commands import predict_command
from textdiffseg_cli.common import add_model, add_root, command, console, print_lines, run
from textdiffseg_cli.output import print_json

if TYPE_CHECKING:
    from textdiffseg.tasks.info import ModelInfo


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_info`."""
    parser = command(
        "tds_info",
        "Describe a trained model: its labels and the words that query them, its folds and their scores, and the "
        "memory that it needs.",
        """
        tds_info 4
        tds_info -m results/Dataset004_Hippocampus/default --json
        """,
    )
    add_model(parser)
    add_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_describe, make_parser().parse_args(argv))


def _describe(args: argparse.Namespace) -> None:
    import textdiffseg as tds

    info = tds.describe(dataset=args.dataset, model=args.model, root=args.root, preset=args.preset)
    if args.json:
        print_json(info)
    else:
        _print(info)


def _print(info: "ModelInfo") -> None:
    """Print the description for a person."""
    from rich.table import Table

    print_lines(f"{info.folder}: preset {info.preset}, trained on {info.dataset}")
    print_lines(f"Reads: {', '.join(info.channels)}, at {' x '.join(f'{mm:.3g}' for mm in info.spacing)} mm (z, y, x)")
    labels = Table("value", "label", "words that query it", "Dice")
    for label in info.labels:
        labels.add_row(str(label.value), label.name, ", ".join(label.phrasings), _dice(label.dice))
    console().print(labels)
    steps = {label.name: label.postprocessing for label in info.labels if label.postprocessing != "none"}
    for name, step in steps.items():
        print_lines(f"Postprocessing of {name}: {step}")
    folds = Table("fold", "state", "scored cases", "Dice", "mirroring")
    for fold in info.folds:
        state = fold.state if fold.validated or fold.state != "finished" else "finished, not validated"
        mirroring = "not chosen" if fold.mirroring is None else "yes" if fold.mirroring else "no"
        folds.add_row(fold.name, state, str(fold.cases), _dice(fold.dice), mirroring)
    console().print(folds)
    print_lines(
        f"Each fold has {info.weights / 1e6:.1f} M weights. A window takes about {info.window_gb:.2g} GB on the "
        f"device, the largest training case {info.host_gb:.2g} GB of memory."
    )
    print_lines(f"Samples, for uncertainty and alternatives: {'yes' if info.samples else 'no'}.")
    print_lines(f"Next: {predict_command(info.folder)}")


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
