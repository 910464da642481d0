"""`tds_plan_and_preprocess`: from a raw data set to a plan, a text bank, folds, and stored cases."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from plans.presets import PRESETS
from textdiffseg_cli.common import add_root, command, console, positive_float, run, whole_number

if TYPE_CHECKING:
    from textdiffseg.tasks.plan import PlannedDataset


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_plan_and_preprocess`."""
    parser = command(
        "tds_plan_and_preprocess",
        "Check a data set, fingerprint it, plan the network, and preprocess every case. Run again, it goes on "
        "where it stopped and redoes only what changed.",
        """
        tds_plan_and_preprocess 4
        tds_plan_and_preprocess 4+101
        tds_plan_and_preprocess Hippocampus --root /data --workers 8
        tds_plan_and_preprocess /elsewhere/Dataset101_Sarcoma --preset unet --memory-gb 11
        tds_plan_and_preprocess 4 --preset paper --text-encoder /models/Bio_ClinicalBERT
        """,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="id (4), name (Hippocampus), folder name below raw/, or a path; several joined by + are trained together",
    )
    add_root(parser)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        help="default: latent diffusion; unet: the same blocks without diffusion; paper: the publication, and its "
        "ablations; peer-*: MONAI's networks (docs/paper.md)",
    )
    parser.add_argument(
        "--memory-gb",
        type=positive_float,
        metavar="G",
        help="plan for a GPU with this much memory (default: 8 where there is a GPU, else a plan for the CPU)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="processes; 0 runs inline (default: from the cores and the free memory)",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="work on a Dask cluster instead, e.g. tcp://host:8786")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="hub name or local folder of a BERT-like model (default: bundled, which needs no network; for paper "
        "presets Bio_ClinicalBERT, in whose place the bundled one stands in where it cannot be had)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_plan_and_preprocess, make_parser().parse_args(argv))


def _plan_and_preprocess(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    with Bars() as bars:
        planned = tds.plan(
            args.dataset,
            root=args.root,
            preset=args.preset,
            gpu_gb=args.memory_gb,
            workers=args.workers,
            scheduler=args.scheduler,
            text_encoder=args.text_encoder,
            report=bars.say,
            progress=bars,
        )
    _print(planned)


def _print(planned: "PlannedDataset") -> None:
    """The table of decisions, the notes, and the command that comes next."""
    from rich.table import Table

    plan, folder, cases = planned.plan, planned.folder, len(planned.splits.cases)
    table = Table("decision", "value", "reason", title=f"Plan of {plan.dataset}, preset {plan.preset}")
    for decision in plan.reasons:
        table.add_row(decision.name, decision.value, decision.reason)
    console().print(table)
    print(f"Stored cases: {planned.stored} made, {cases - planned.stored} unchanged, in {folder.cases}.")
    for note in planned.notes:
        print(note)
    more = [] if plan.preset == "default" else ["--preset", plan.preset]
    more += [] if planned.root == Path() else ["--root", str(planned.root)]
    fold = "0" if planned.splits.folds else "all"
    print(f"Plan: {folder.plan(plan.preset)}. Next: {shlex.join(['tds_train', plan.dataset, fold, *more])}")
