"""`tds_plan_and_preprocess`: make the plan, the text bank, the folds and the stored cases of a data set."""

import argparse
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from plans.choices import PRESETS
from plans.commands import command_line
from textdiffseg_cli.common import add_root, command, console, positive_float, print_lines, run, whole_number
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.tasks.plan import PlannedDataset


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_plan_and_preprocess`."""
    parser = command(
        "tds_plan_and_preprocess",
        "Check a data set, measure it, plan the network, and store every case. If it was interrupted, run it again: it "
        "resumes. After a change of the data it repeats only what changed.",
        """
        tds_plan_and_preprocess 4
        tds_plan_and_preprocess 4+101
        tds_plan_and_preprocess Hippocampus --root /data --workers 8
        tds_plan_and_preprocess /elsewhere/Dataset101_Sarcoma --preset unet --memory-gb 11
        tds_plan_and_preprocess 4 --preset paper --text-encoder /models/Bio_ClinicalBERT
        tds_plan_and_preprocess 4 --spacing 3 2 2
        """,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="id (4), name (Hippocampus), folder name below raw/, or path; 4+101 treats two data sets as one",
    )
    add_root(parser)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        metavar="NAME",
        help="model to plan. default: latent diffusion; unet: the same blocks without diffusion; paper: the "
        f"publication; paper-...: its ablations; peer-...: networks of others. One of {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--memory-gb",
        type=positive_float,
        metavar="G",
        help="plan for a GPU with this much memory (default: at most 8 if there is a GPU, else a plan for the CPU)",
    )
    _add_work(parser)
    add_output(parser)
    return parser


def _add_work(parser: argparse.ArgumentParser) -> None:
    """Add the options on processes, the text encoder and the spacing."""
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="number of processes; 0 means no extra process (default: from the cores and the free memory)",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="use a Dask cluster instead of processes, e.g. tcp://host:8786"
    )
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="BERT-like model: a name on the Hugging Face hub, or a local folder (default: the bundled one, which "
        "needs no network). The paper presets use Bio_ClinicalBERT, or the bundled one if that is not available",
    )
    parser.add_argument(
        "--spacing",
        nargs="+",
        action=_Spacing,
        metavar="MM",
        help="voxel size of the stored scans in mm: three numbers, z y x; or `full`: nnU-Net's (default: nnU-Net's; on "
        "a CPU coarser, until a patch covers a quarter of a scan). Give the same for all presets of a data set",
    )
    parser.add_argument(
        "--mirroring",
        action="store_true",
        help="mirror training samples and average predictions over mirrored views; it may pay in long trainings with "
        "few cases (default: no, as networks then learn faster)",
    )
    parser.add_argument(
        "--no-low-resolution",
        dest="low_resolution",
        action="store_false",
        help="do not store the cases at low resolution, too (default: where a patch covers less than a quarter of a "
        "scan)",
    )


class _Spacing(argparse.Action):
    """The value of --spacing: three positive numbers, or the word full."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        spacing: tuple[float, ...] | str = "full" if values == ["full"] else ()
        if not spacing:
            with suppress(argparse.ArgumentTypeError, ValueError):
                spacing = tuple(positive_float(value) for value in values)
            if len(spacing) != 3:
                expected = "three positive numbers (mm, z y x) or the word full"
                parser.error(f"argument --spacing: expected {expected}, found {' '.join(values)}")
        setattr(namespace, self.dest, spacing)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_plan_and_preprocess, make_parser().parse_args(argv), resumes=True)


def _plan_and_preprocess(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars

    with Bars(args.quiet, args.json) as bars:
        planned = tds.plan(
            args.dataset,
            root=args.root,
            preset=args.preset,
            gpu_gb=args.memory_gb,
            workers=args.workers,
            scheduler=args.scheduler,
            text_encoder=args.text_encoder,
            spacing=args.spacing,
            low_resolution=args.low_resolution,
            mirroring=args.mirroring,
            report=bars.print_line,
            progress=bars,
        )
    if args.json:
        print_json(planned)
    else:
        _print(planned)


def _print(planned: "PlannedDataset") -> None:
    """Print the table of decisions, the notes, and the next command."""
    from rich.table import Table

    plan, folder, cases = planned.plan, planned.folder, len(planned.splits.cases)
    table = Table("decision", "value", "reason", title=f"Plan of {plan.dataset}, preset {plan.preset}")
    for decision in plan.reasons:
        table.add_row(decision.name, decision.value, decision.reason)
    console().print(table)
    print_lines(f"Stored {cases} cases in {folder.cases}: {planned.stored} new, {cases - planned.stored} unchanged.")
    if planned.low is not None:
        new, low, disk = planned.stored_low, folder.low(plan.preset).cases, planned.low.memory.disk_gb
        print_lines(f"At low resolution in {low}, {disk:.2g} GB: {new} new, {cases - new} unchanged.")
    for note in planned.notes:
        print_lines(note)
    fold = "0" if planned.splits.folds else "all"
    train = partial(command_line, "tds_train", plan.dataset, fold, preset=plan.preset, root=planned.root)
    print_lines(f"Plan: {folder.plan(plan.preset)}")
    print_lines(f"Next: {train()}")
    if planned.low is not None:
        print_lines(f"Low resolution: {train(resolution='low')}")
