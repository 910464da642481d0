"""`tds_run`: do what is not done yet: plan, preprocess, train and validate each fold."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plans.choices import PRESETS, TRACKERS
from plans.commands import command_line, predict_command
from textdiffseg.resources import DEVICES
from textdiffseg_cli.common import add_root, command, console, positive_float, print_lines, run
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.tasks.run import RunOutcome


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_run`."""
    parser = command(
        "tds_run",
        "Do what is not done yet for a data set: plan, preprocess, train every fold, and validate it. You can stop it "
        "at any time; type it again, and it goes on.",
        """
        tds_run 4 --hours 4
        tds_run Hippocampus --hours 1 --folds 0
        tds_run 4 --preset unet --root /data
        """,
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set: id, name, folder name below raw/, or path")
    add_root(parser)
    parser.add_argument(
        "--hours",
        type=positive_float,
        metavar="H",
        help="hours of this call after planning, shared by the folds that are not trained yet (default: each takes "
        "its plan's length)",
    )
    parser.add_argument(
        "--folds", nargs="+", default=[], metavar="FOLD", help="folds to train (default: all of the cross-validation)"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="default", metavar="NAME", help="model to train (default: default)"
    )
    parser.add_argument("--device", choices=DEVICES, help="where to train (default: cuda if there is a GPU)")
    parser.add_argument(
        "--track", choices=TRACKERS, help="also write the training curves for TensorBoard, into the folder of each fold"
    )
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_run, make_parser().parse_args(argv), resumes=True)


def _run(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars
    from textdiffseg_cli.threads import idle_cores_only

    with Bars(args.quiet, args.json) as bars, idle_cores_only(bars.print_line):
        outcome = tds.run(
            args.dataset,
            root=args.root,
            hours=args.hours,
            folds=args.folds,
            preset=args.preset,
            options=tds.TrainingOptions(device=args.device, track=args.track),
            report=bars.print_line,
            progress=bars,
        )
    if args.json:
        print_json(outcome)
    else:
        _print(outcome, args.hours, args.folds)
    if args.track and not args.json:
        print_lines(f"Curves: tensorboard --logdir {outcome.model}")


def _print(outcome: "RunOutcome", hours: float | None, chosen: Sequence[str]) -> None:
    """Print the scores of all folds, and the next command."""
    from textdiffseg_cli.status import folds_table

    console().print(folds_table(outcome.preset, outcome.folds))
    if not outcome.is_complete:
        open_folds = [fold for fold in outcome.folds if fold.state != "validated"]
        print_lines(f"Not finished: {', '.join(f'fold {fold.fold} ({fold.state})' for fold in open_folds)}.")
        options = [*([] if hours is None else ["--hours", f"{hours:g}"]), *(["--folds", *chosen] if chosen else [])]
        next_command = command_line("tds_run", outcome.dataset, *options, preset=outcome.preset, root=outcome.root)
        print_lines(f"Next: {next_command}")
    if any(fold.state == "validated" for fold in outcome.folds):
        print_lines(f"Model: {outcome.model}")
        print_lines(f"Report: {outcome.page}. Open it in a browser.")
        if note := few_iterations_note(outcome):
            print_lines(note)
        print_lines(f"Next: {predict_command(outcome.model)}")


def few_iterations_note(outcome: "RunOutcome") -> str | None:
    """A note on the first fold of few iterations, with the command that trains it longer; None: there is none."""
    from textdiffseg.training.setup import USUAL_ITERATIONS, usual_seconds

    for fold in outcome.folds:
        if fold.state == "validated" and fold.limit_seconds and 0 < fold.iterations < USUAL_ITERATIONS:
            minutes = math.ceil(usual_seconds(fold.limit_seconds, fold.iterations) / 60)
            longer = ("tds_train", outcome.dataset, fold.fold, "--max-minutes", str(minutes))
            return (
                f"Note: fold {fold.fold} learned in {fold.iterations} iterations. Masks become better with more: "
                f"{command_line(*longer, preset=outcome.preset, root=outcome.root)}"
            )
    return None
