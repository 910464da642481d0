"""`tds_train`: train one fold, then predict and score its validation cases on their original grids."""

import argparse
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from plans.choices import PRESETS, RESOLUTIONS, TRACKERS
from plans.commands import predict_command
from textdiffseg.resources import DEVICES
from textdiffseg_cli.common import (
    add_root,
    command,
    console,
    positive_float,
    positive_int,
    print_lines,
    run,
    whole_number,
)
from textdiffseg_cli.output import add_output, print_json

if TYPE_CHECKING:
    from textdiffseg.folds.expected_dice import DiceFit
    from textdiffseg.tasks.validate import TrainedFold


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_train`."""
    parser = command(
        "tds_train",
        "Train one fold of a planned data set, then predict and score its validation cases. If it was interrupted, run "
        "the same command again: it resumes.",
        """
        tds_train 4 0
        tds_train Hippocampus 0 --max-minutes 20 --device cpu
        tds_train 4 all --epochs 100
        tds_train 4+101 0
        tds_train 4 0 --val
        tds_train 12 0 --init-from results/Dataset004_Hippocampus/default
        """,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="planned data set: id, name or folder name; 4+101: two data sets planned as one",
    )
    parser.add_argument("fold", metavar="FOLD", help="0 to 4, or all to train on every case")
    add_root(parser)
    _add_plan(parser)
    _add_length(parser)
    _add_resources(parser)
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="only continue a started run; never start a new one"
    )
    parser.add_argument(
        "--restart", action="store_true", help="train this fold from the start; its old files are deleted"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="MODEL",
        help="start from the weights of a trained model (its folder); labels, words and channels may differ",
    )
    parser.add_argument(
        "--track", choices=TRACKERS, help="also write the training curves for TensorBoard, into the folder of the fold"
    )
    parser.add_argument("--val", action="store_true", help="only predict and score the validation cases again")
    add_output(parser)
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the plan."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        metavar="NAME",
        help="whose plan to train (default: default if it is planned, else the first planned preset)",
    )
    parser.add_argument(
        "--resolution",
        choices=RESOLUTIONS,
        default="full",
        help="low: train the model of low resolution, which tds_predict --fast uses, and which shows the full "
        "resolution where to look (default: full)",
    )


def _add_length(parser: argparse.ArgumentParser) -> None:
    """Add the options for the length of the training."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=positive_int, metavar="N", help="length of the training in epochs (default: from the plan)"
    )
    length.add_argument(
        "--max-minutes",
        type=positive_float,
        metavar="M",
        help="train for about M minutes; the command times some iterations first",
    )


def _add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the options for the device, the processes and the random numbers."""
    parser.add_argument("--device", choices=DEVICES, help="where to train (default: cuda if there is a GPU)")
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="number of processes that load and augment (default: 0 on a CPU, up to 12 with a GPU)",
    )
    parser.add_argument("--seed", type=whole_number, metavar="N", help="seed of all random numbers (default: 0)")
    parser.add_argument(
        "--no-compile", action="store_true", help="do not use torch.compile (default: compile on a GPU)"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_train, make_parser().parse_args(argv), resumes=True)


def _train(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg_cli.bars import Bars
    from textdiffseg_cli.threads import idle_cores_only

    options = tds.TrainingOptions(
        epochs=args.epochs,
        max_minutes=args.max_minutes,
        device=args.device,
        workers=args.workers,
        seed=args.seed,
        restart=args.restart,
        compile=not args.no_compile,
        init_from=args.init_from,
        track=args.track,
    )
    with Bars(args.quiet, args.json) as bars, idle_cores_only(bars.print_line):
        trained = tds.train(
            args.dataset,
            args.fold,
            root=args.root,
            options=options,
            preset=args.preset,
            resolution=args.resolution,
            must_exist=args.resume,
            only_validate=args.val,
            report=bars.print_line,
            progress=bars,
        )
    if args.json:
        print_json(trained)
    else:
        _print(trained, tracked=args.track is not None)


def _print(trained: "TrainedFold", tracked: bool = False) -> None:
    """Print the scores, and the findings of the validation."""
    from textdiffseg_cli.tables import summary_table

    console().print(summary_table(trained.summary))
    _print_findings(trained)
    if trained.held_out:
        _print_calibration(trained)
    for label, step in trained.postprocessing.items():
        print_lines(f"Postprocessing of {label}, as these cases gained by it: {step}. The scores above are without it.")
    for rule in filter(None, (trained.summary.rater_rule, trained.summary.ged_rule)):
        print_lines(rule)
    for note in trained.summary.notes:
        print_lines(f"Note: {note}")
    if trained.latent_dice:  # low if the latent grid is too coarse for a label, or if training was short
        carried = ", ".join(f"{name} {dice:.3f}" for name, dice in trained.latent_dice.items())
        print_lines(f"True masks, encoded and decoded (a check of the samples' decoder, not a result): Dice {carried}.")
    print_lines(f"Written: {trained.fold.summary}, {trained.fold.curves}")
    if tracked:
        print_lines(f"Curves: tensorboard --logdir {trained.fold.events}")
    if not trained.held_out:
        print_lines(
            "Note: fold all was scored on cases that it was trained on, so nothing was chosen or calibrated on them."
        )
    print_lines(f"Next: {predict_command(trained.fold.path.parent)}")


def _print_findings(trained: "TrainedFold") -> None:
    """Print which labels were found in the validation cases, and advice for the others."""
    from textdiffseg.pace import duration
    from textdiffseg.validation.findings import GOOD_DICE

    known = [finding for finding in trained.findings if finding.cases]
    missed = [finding for finding in known if finding.found < finding.cases]
    for finding in missed:
        line = f"{finding.label} was found in {finding.found} of {finding.cases} cases"
        if finding.hours is not None:
            time = duration(3600 * finding.hours)
            line += f": train longer; at this pace its Dice reaches {GOOD_DICE:g} after about {time} in total"
        elif finding.found == 0:
            line += ": train longer"
        print_lines(f"{line}.")
    if missed:
        hours = [finding.hours for finding in missed if finding.hours is not None]
        length_options = f"--max-minutes {ceil(60 * max(hours))}" if hours else "more --epochs or --max-minutes"
        print_lines(f"To train longer, run the same command with {length_options}.")
    if known and not missed:
        print_lines(f"Every label was found in every validation case that contains it ({len(known)} labels).")
    for finding in trained.findings:
        if not finding.cases:
            print_lines(f"{finding.label} is in none of the validation cases, so it was not scored.")


def _print_calibration(trained: "TrainedFold") -> None:
    """Print the calibration of each setting."""
    from textdiffseg.folds.sampling import MIN_SAMPLES
    from textdiffseg.folds.weights import has_sampler
    from textdiffseg.validation.evidence import MIN_CASES

    fits = trained.calibration.fits
    if not fits:
        print_lines(f"No temperature was fitted: at least {MIN_CASES} validation cases with foreground are needed.")
    for fit in fits:
        what = f"{fit.samples} samples of {fit.steps} steps" if fit.steps else "the mask"
        print_lines(
            f"Probabilities of {what}, {fit.cases} cases: temperature {fit.temperature:.2f}, "
            f"calibration error {fit.ece_before:.3f} -> {fit.ece_after:.3f}, "
            f"Brier score {fit.brier_before:.3f} -> {fit.brier_after:.3f}."
        )
        if fit.widening:
            before, after = (
                sum(shares.values()) / len(shares)
                for shares in (fit.widening.coverage_before, fit.widening.coverage_after)
            )
            print_lines(
                f"  90% intervals of volumes, scaled by {fit.widening.factor:.2f}: true volumes inside "
                f"{before:.0%} -> {after:.0%}."
            )
        if fit.expected_dice:
            _print_expected_dice(fit.expected_dice)
    if fits and trained.plan.sample_steps and all(fit.samples < MIN_SAMPLES for fit in fits):
        if has_sampler(trained.fold):
            why = (
                "--uncertainty was not calibrated: predicting enough cases with its samples would have taken too long."
            )
        else:
            why = "This model draws no samples, for --uncertainty and --alternatives: one epoch is too short for that."
        print_lines(why)


def _print_expected_dice(fit: "DiceFit") -> None:
    """Print what the expected Dice was fitted to, and how well it finds poor masks."""
    shares = (("poor", fit.poor_found), ("other", fit.good_flagged))
    below = ", ".join(f"{share:.0%} of the {kind} masks" for kind, share in shares if share is not None)
    print_lines(
        f"  Expected Dice, from {fit.scans} scans ({fit.degraded} degraded): mean error {fit.error:.3f}. Masks below "
        f"{fit.threshold:.2f} are reported: {below} (poor: Dice below {fit.poor_dice:.2f})."
    )
