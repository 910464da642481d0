"""`tds_predict`: segment scans with a trained model."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from plans.errors import UserError
from plans.file_names import is_image_name
from plans.layout import REPORT
from textdiffseg_cli.common import add_root, command, print_lines, run
from textdiffseg_cli.output import add_output, print_json
from textdiffseg_cli.predict_options import (
    add_effort,
    add_model,
    add_outputs,
    add_sampling,
    add_scans,
    add_words,
    segment_options,
)

if TYPE_CHECKING:
    from textdiffseg.tasks.outcome import Outcome


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_predict`."""
    parser = command(
        "tds_predict",
        "Segment a folder of scans, or one scan. A segmentation has the grid of its scan and the label values of the "
        "training data. If the root has one trained model, -i and -o are enough.",
        """
        tds_predict -i scans -o segmentations
        tds_predict -i scans -o segmentations -d Hippocampus --folds 0 1
        tds_predict -i scan.nii.gz -o segmentations --prompt "anterior hippocampus"
        tds_predict -i scans -o segmentations --prompts labels.json
        tds_predict -i scans -o segmentations --texts texts
        tds_predict --list cases.csv -o segmentations
        tds_predict -i scans -o segmentations -m results/Dataset004_Hippocampus/default --uncertainty
        """,
    )
    add_scans(parser)
    add_model(parser)
    add_root(parser)
    add_words(parser)
    add_sampling(parser)
    add_effort(parser)
    add_outputs(parser)
    add_output(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_predict, make_parser().parse_args(argv), resumes=True)


def _predict(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars
    from textdiffseg_cli.threads import idle_cores_only

    one_file = is_image_name(args.out.name) and not args.out.is_dir()
    page = (args.out.parent if one_file else args.out) / REPORT
    if args.report:
        _check_report(page)
    source = args.source if args.list is None else tds.CaseList.read(args.list)
    with Bars(args.quiet, args.json) as bars, idle_cores_only(bars.print_line):
        outcome = tds.predict(
            source,
            args.out,
            model=args.model,
            dataset=args.dataset,
            root=args.root,
            folds=args.folds,
            checkpoint=args.checkpoint,
            device=args.device,
            include_unfinished=args.include_unfinished,
            backend=args.backend,
            options=segment_options(args),
            texts=args.texts,
            overwrite=args.overwrite,
            preset=args.preset,
            picture=args.picture,
            series=args.series,
            conversions=args.conversions or (),
            report=bars.print_line,
            progress=bars,
        )
    if not args.json:
        _print(outcome, args.out)
    faults = [*outcome.failures]
    if args.report and outcome.written + outcome.skipped:
        try:
            with Bars(args.quiet, args.json) as bars:
                outcome.page = tds.write_report(page.parent, page, scans=source, series=args.series, progress=bars)
        except UserError as error:
            faults += error.lines
        except OSError as error:
            faults.append(f"{page}: {error.strerror}. The report is not written.")
    if args.json:
        print_json(outcome)
    elif outcome.written + outcome.skipped:
        _print_next(args, outcome, page)
    if faults:
        raise UserError(*faults)


def _check_report(page: Path) -> None:
    """Raise `UserError` if a report cannot be written, before anything is predicted."""
    from textdiffseg.extras import require
    from textdiffseg.tasks.report import refuse_other_page

    require("report", "--report", "matplotlib")
    refuse_other_page(page)


def _print_next(args: argparse.Namespace, outcome: "Outcome", page: Path) -> None:
    """Print the report, or how to get one."""
    if outcome.page is not None:
        print_lines(f"Report: {outcome.page}. Open it in a browser.")
    elif args.list is not None:
        print_lines("Next: type the same command with --report, for a report with pictures.")
    elif not args.report:
        series = [] if args.series is None else ["--series", args.series]
        command = ["tds_report", str(page.parent), "--scans", str(args.source), *series, "-o", str(page)]
        print_lines(f"Next: {shlex.join(command)}")


def _print(outcome: "Outcome", out: Path) -> None:
    """Print what was predicted and what to look at."""
    print_lines(f"{len(outcome.written)} predicted, {len(outcome.skipped)} complete already, in {out}")
    if outcome.table is not None:
        print_lines(f"Volumes of all cases: {outcome.table}")
    cases = len(outcome.written) + len(outcome.skipped)
    if outcome.empty:
        print(f"{len(outcome.empty)} of {cases} masks are empty: {', '.join(outcome.empty)}.")
    if outcome.to_check:
        print(f"{len(outcome.to_check)} of {cases} masks to check (low expected Dice): {', '.join(outcome.to_check)}.")
    if outcome.not_found:
        print_lines(
            f"Found in no scan: {', '.join(outcome.not_found)}. Train longer, or predict scans that contain them."
        )
    for note in outcome.notes:
        print_lines(f"Note: {note}")
