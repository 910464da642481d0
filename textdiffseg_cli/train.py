"""`tds_train`: train one fold, then predict and score its validation cases on their original grids."""

import argparse
import math

from plans.presets import PRESETS
from textdiffseg_cli.common import (
    add_root,
    choose_device,
    command,
    console,
    loading_workers,
    positive_float,
    positive_int,
    run,
    whole_number,
)

LONG = 10.0  # minutes of validation that are told beforehand
# Shares of the training's time that may go into choosing steps and mirroring, at least so many seconds, and into
# calibrating the uncertainty, so that short runs stay short.
CHOICE_SHARE, LEAST_CHOICE, CALIBRATION_SHARE = 0.2, 30.0, 0.1


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_train`."""
    parser = command(
        "tds_train",
        "Train one fold of a planned data set. Run the same command again to go on where it stopped.",
        """
        tds_train 4 0
        tds_train Hippocampus 0 --max-minutes 20 --device cpu
        tds_train 4 all --epochs 100
        tds_train 4+101 0
        tds_train 4 0 --val
        """,
    )
    parser.add_argument(
        "dataset", metavar="DATASET", help="id, name or folder of the data set; 4+101: planned together"
    )
    parser.add_argument("fold", metavar="FOLD", help="0 to 4, or all: train on every case")
    add_root(parser)
    parser.add_argument(
        "--preset", choices=PRESETS, help="whose plan (default: default if planned, else the first that is)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive_int, metavar="N", help="epochs (default: the plan's)")
    length.add_argument(
        "--max-minutes",
        type=positive_float,
        metavar="M",
        help="train for about M minutes: iterations are timed first, and their number corrected after each epoch",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="processes that load and augment; 0: none")
    parser.add_argument("--seed", type=whole_number, metavar="N", help="of all randomness (default: 0)")
    parser.add_argument("--no-compile", action="store_true", help="train without torch.compile, which a GPU gets")
    parser.add_argument("--continue", dest="resume", action="store_true", help="insist on going on with a started run")
    parser.add_argument("--restart", action="store_true", help="delete what this fold holds and train anew")
    parser.add_argument("--val", action="store_true", help="only predict and score the validation cases again")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_train, make_parser().parse_args(argv))


def _train(args: argparse.Namespace) -> None:
    from plans.errors import UserError
    from plans.folders import find_folder
    from textdiffseg.data.splits import read_splits
    from textdiffseg.data.store import list_cases
    from textdiffseg.training.checkpoint import read_progress
    from textdiffseg.training.lock import alone

    if args.restart and (args.resume or args.val):
        raise UserError("--restart deletes the run that --continue and --val need: give one of them.")
    preprocessed = find_folder(args.dataset, args.root, "preprocessed")
    preset = _preset(args.preset, preprocessed)
    fold = read_splits(preprocessed / "splits.json", list_cases(preprocessed)).fold(args.fold)
    folder = args.root / "results" / preprocessed.name / preset / f"fold_{args.fold}"
    device = choose_device(args.device)
    progress = read_progress(folder)
    if (args.resume or args.val) and progress is None:
        raise UserError(f"{folder} holds no run to go on with: leave --continue and --val out to start one.")
    plan = _check(preprocessed, folder if progress and not args.restart else None, preset, fold)
    if progress is None or args.restart:
        _tell_device(plan, device)
    with alone(folder):
        if not args.val:
            _fit(args, preprocessed, fold, folder, preset, device)
        _tell_latent(folder)
        held_out = args.fold != "all"
        _validate(preprocessed, fold.validation, folder, device, held_out)
    if not held_out:
        print("Note: fold all was scored on cases that it was trained on, so nothing was chosen or calibrated on them.")


def _fit(args: argparse.Namespace, preprocessed, fold, folder, preset: str, device: str) -> None:
    """Train, as the command line has it."""
    from textdiffseg.training.loop import fit
    from textdiffseg.training.run import TrainingOptions

    options = TrainingOptions(
        epochs=args.epochs,
        max_minutes=args.max_minutes,
        device=device,
        workers=loading_workers(device) if args.workers is None else args.workers,
        seed=args.seed,
        preset=preset,
        restart=args.restart,
        compile=not args.no_compile,
    )
    fit(preprocessed, fold, folder, options, print)


def _tell_device(plan, device: str) -> None:
    """A plan for one device trains on the other, too, but is small there or takes long."""
    again = f"tds_plan_and_preprocess --preset {plan.preset}"
    if plan.device == "cpu" and device == "cuda":
        print(
            "Note: this plan was made for a CPU, so its network is small and its training short. For one that uses "
            f"this GPU, run {again} here, or elsewhere with --memory-gb 8."
        )
    if plan.device == "gpu" and device == "cpu":
        print(
            "Note: this plan was made for a GPU; on a CPU its training takes very long. For a network that fits, run "
            f"{again} without --memory-gb on a machine without a GPU."
        )


def _check(preprocessed, started, preset: str, fold):
    """Before anything is written: plan, words and stored cases belong together; of a started run, its own plan, which
    is returned, and its own cases."""
    from plans.memory import refuse_beyond_budget
    from plans.plan import FOLD_BANK, FOLD_PLAN, Plan, bank_file, plan_file, texts_file
    from textdiffseg.data.splits import refuse_other_cases
    from textdiffseg.data.store import check_cases
    from textdiffseg.inference.ensemble import check_words
    from textdiffseg.text.bank import TextBank
    from textdiffseg.text.case_texts import read_case_texts

    folder, name = (started, FOLD_PLAN) if started else (preprocessed, plan_file(preset))
    plan = Plan.read(folder / name)
    words = folder / (FOLD_BANK if started else bank_file(preset))
    bank = TextBank.load(words)
    check_words([words], [plan], [bank])
    if plan.reads_texts:
        read_case_texts(preprocessed / texts_file(preset), bank, ())
    check_cases(preprocessed, sorted({*fold.train, *fold.validation}), plan)
    refuse_beyond_budget(plan, str(folder / name))
    if started:
        refuse_other_cases(started, fold)
    return plan


def _tell_latent(folder) -> None:
    """What the latent carries by itself: a low figure says that its grid is too coarse for that label, or that
    training was short."""
    from textdiffseg.training.log import read_log

    log = read_log(folder / "log.jsonl")
    if log and (carried := log[-1].reconstruction_dice):
        told = ", ".join(f"{name} {dice:.3f}" for name, dice in carried.items())
        print(f"True labels through the latent and back, without the image: Dice {told}.")


def _validate(preprocessed, cases, folder, device: str, held_out: bool) -> None:
    """Choose how to sample, predict the validation cases on their original grids, calibrate, and print the scores.

    Cases that were trained on choose and calibrate nothing: predictions are then as `read_sampling` has them without.
    """
    from tqdm import tqdm

    from textdiffseg.evaluation.report import summary_table
    from textdiffseg.inference.validation import (
        MOST_SAMPLED_SECONDS,
        MOST_SECONDS,
        calibrate_uncertainty,
        choose_sampling,
        validate_fold,
    )
    from textdiffseg.training.log import read_log

    def shown(bar: tqdm):
        def progress(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        return progress

    log = read_log(folder / "log.jsonl")
    trained = log[-1].seconds if log else math.inf
    if held_out:
        allowed = min(MOST_SECONDS, max(LEAST_CHOICE, CHOICE_SHARE * trained))
        with tqdm(desc="Choose steps and mirroring", unit="setting") as bar:
            sampling = choose_sampling(
                folder, preprocessed, cases, device=device, most_seconds=allowed, progress=shown(bar)
            )
        if (minutes := sampling.seconds * len(cases) / 60) > LONG:
            print(f"Predicting the {len(cases)} validation cases will take about {minutes:.0f} minutes.")
    with tqdm(desc="Predict the validation cases", unit="case") as bar:
        summary = validate_fold(folder, preprocessed, cases, device=device, calibrate=held_out, progress=shown(bar))
    if held_out:
        allowed = min(MOST_SAMPLED_SECONDS, CALIBRATION_SHARE * trained)
        with tqdm(desc="Calibrate the uncertainty", unit="case") as bar:
            calibrate_uncertainty(folder, preprocessed, cases, device=device, most_seconds=allowed, progress=shown(bar))
    console().print(summary_table(summary))
    if held_out:
        _tell_calibration(folder)
    for note in summary.notes:
        print(f"Note: {note}")
    print(f"Written: {folder}/validation/summary.json, {folder}/progress.png")


def _tell_calibration(folder) -> None:
    """What was fitted to the validation cases, setting by setting."""
    from plans.plan import FOLD_PLAN, Plan
    from textdiffseg.inference.calibration import read_calibration
    from textdiffseg.inference.evidence import LEAST_CASES
    from textdiffseg.inference.settings import LEAST_SAMPLES

    fits = read_calibration(folder).fits
    if not fits:
        print(f"No temperature was fitted: at least {LEAST_CASES} validation cases with foreground are needed.")
    for fit in fits:
        print(
            f"Probabilities of {fit.steps} x {fit.samples} (steps x samples), {fit.cases} cases: temperature "
            f"{fit.temperature:.2f}, calibration error {fit.ece_before:.3f} -> {fit.ece_after:.3f}, "
            f"Brier {fit.brier_before:.3f} -> {fit.brier_after:.3f}."
        )
        if fit.widening:
            before, after = (
                sum(shares.values()) / len(shares)
                for shares in (fit.widening.coverage_before, fit.widening.coverage_after)
            )
            print(
                f"  90% intervals of volumes, widened by {fit.widening.factor:.2f}: true volumes inside "
                f"{before:.0%} -> {after:.0%}."
            )
    if fits and Plan.read(folder / FOLD_PLAN).diffusion and all(fit.samples < LEAST_SAMPLES for fit in fits):
        print("--uncertainty was not calibrated: predicting enough cases with its samples would have taken too long.")


def _preset(wanted: str | None, preprocessed) -> str:
    """The preset asked for, or the first that is planned; `UserError` names what is there."""
    from plans.errors import UserError
    from plans.plan import plan_file

    there = [preset for preset in PRESETS if (preprocessed / plan_file(preset)).is_file()]
    if wanted is None and there:
        return there[0]
    if wanted not in there:
        again = f" --preset {wanted}" if wanted else ""
        raise UserError(
            f"{preprocessed} has no plan {plan_file(wanted or 'default')} (found {', '.join(there) or 'none'}): "
            f"run tds_plan_and_preprocess{again} first."
        )
    return wanted
