"""`tds_predict`: segment scans with a trained model."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from plans.choices import PRESETS
from plans.errors import UserError
from plans.file_names import is_image_name
from plans.layout import REPORT
from textdiffseg_cli.common import add_root, command, positive_int, print_lines, run, whole_number
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.inference.segmenting import SegmentOptions
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
    _add_scans(parser)
    _add_model(parser)
    _add_words(parser)
    _add_sampling(parser)
    _add_effort(parser)
    _add_outputs(parser)
    add_output(parser)
    return parser


def _add_scans(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the scans and the output."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-i",
        dest="source",
        type=Path,
        metavar="IN",
        help="folder of scans, or one scan; DICOM may be a folder, a zip or one slice",
    )
    source.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="CSV or JSON file with a row per case: its name (case), its scan (image; for several channels image_0, "
        "image_1, ...) and a text about it (text, optional)",
    )
    parser.add_argument(
        "--series",
        metavar="UID",
        help="predict this DICOM series only (default: the largest of each folder; a note names the others)",
    )
    parser.add_argument(
        "-o",
        dest="out",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for the segmentations; for one scan also a file name",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the model and its folds."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "-m",
        dest="model",
        type=Path,
        metavar="RESULTS_FOLDER",
        help="use the model in this folder, which contains fold_0, ...",
    )
    model.add_argument(
        "-d", dest="dataset", metavar="DATASET", help="use the model of this data set: id, name or folder name"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, metavar="NAME", help="use the model of this preset (default: the only trained one)"
    )
    add_root(parser)
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to average (default: all finished folds)")
    parser.add_argument(
        "--include-unfinished", action="store_true", help="also use folds that are in training or were interrupted"
    )
    parser.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="which weights of each fold (default: best)"
    )


def _add_words(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what to segment, in words."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--prompt",
        nargs="+",
        action="extend",
        metavar="WORDS",
        help="segment only these structures; write each one in quotes",
    )
    words.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON file with names and values of your own: {"labels": {NAME: {"phrase": WORDS, "value": N}}}',
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FOLDER",
        help="folder of texts about single cases, CASE.txt each, for a model that was trained with such texts",
    )
    parser.add_argument("--force", action="store_true", help="run words that the model was not trained with")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="the model's text encoder, for --force and --texts, if it is not the bundled one: a hub name or a local "
        "folder. An encoder that only the model names is not loaded",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling."""
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="make the mask from diffusion samples of N steps, not from the usual single pass; also the steps of "
        "--uncertainty and --alternatives (default: the plan's)",
    )
    parser.add_argument(
        "--samples",
        type=positive_int,
        metavar="N",
        help="make the mask from the mean of N diffusion samples, not from the usual single pass",
    )
    parser.add_argument(
        "--no-mirroring",
        action="store_true",
        help="do not average over mirrored views (default: what the validation chose)",
    )
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="seed of the noise (default: 0)")


def _add_effort(parser: argparse.ArgumentParser) -> None:
    """Add the options of the time that a mask takes, and of what follows the network."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to predict (default: cuda if there is a GPU)")
    parser.add_argument(
        "--backend",
        choices=("torch", "openvino"),
        default="torch",
        help="what computes the masks; openvino is faster on a CPU and needs the extra [openvino] (default: torch)",
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "--fast",
        dest="effort",
        action="store_const",
        const="fast",
        default="chosen",
        help="low resolution alone, where it is trained (tds_train --resolution low); else fewer windows, which "
        "overlap less. No mirroring",
    )
    effort.add_argument(
        "--best",
        dest="effort",
        action="store_const",
        const="best",
        help="the setting with the best Dice in validation, however much time it takes; implies --no-guide",
    )
    parser.add_argument(
        "--no-guide",
        dest="guide",
        action="store_false",
        help="compute full resolution everywhere (default: only where the low resolution finds something, if it is "
        "trained)",
    )
    parser.add_argument(
        "--no-postprocessing",
        dest="postprocessing",
        action="store_false",
        help="leave out the postprocessing that gained Dice in validation (tds_info lists it)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options for further outputs."""
    parser.add_argument(
        "--picture",
        action="store_true",
        help="also draw a PNG of each scan: three planes through the middle of the masks",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write OUT/report.html: the scans to check first, volumes, pictures and a 3D viewer",
    )
    parser.add_argument(
        "--separate",
        dest="conversions",
        action="append_const",
        const="separate",
        help="also write one mask per label, with the values 0 and 1: OUT/separate/CASE/LABEL.nii.gz",
    )
    for kind, name in (("dicom-seg", "a DICOM segmentation"), ("rtstruct", "a DICOM structure set (outlines)")):
        parser.add_argument(
            f"--{kind}",
            dest="conversions",
            action="append_const",
            const=kind,
            help=f"also write {name} on the slices of a DICOM scan: OUT/{kind}/CASE.dcm",
        )
    parser.add_argument("--probabilities", action="store_true", help="also write the probabilities of each label")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write maps of uncertainty. They come from extra samples (at least 8); the masks do not change",
    )
    parser.add_argument(
        "--alternatives",
        type=positive_int,
        metavar="K",
        help="also write K possible masks (16 at most), each with its share of 16 extra samples; the masks do not "
        "change",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="predict again what is complete; replace corrected masks, and files that tds_predict did not make",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_predict, make_parser().parse_args(argv), resumes=True)


def _options(args: argparse.Namespace) -> "SegmentOptions":
    import textdiffseg as tds

    return tds.SegmentOptions(
        prompts=tuple(args.prompt or ()),
        answers=args.prompts,
        force=args.force,
        text_encoder=args.text_encoder,
        steps=args.steps,
        samples=args.samples,
        mirroring=not args.no_mirroring,
        effort=args.effort,
        guide=args.guide,
        postprocessing=args.postprocessing,
        seed=args.seed,
        uncertainty=args.uncertainty,
        probabilities=args.probabilities,
        alternatives=args.alternatives or 0,
    )


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
            options=_options(args),
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
