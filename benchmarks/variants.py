"""One change at a time against the same control, with equal training time: the comparisons behind docs/method.md.

    python benchmarks/variants.py --changes "AdamW alone" "learning rate x 2" [--preset unet] [--iterations 500]
        [--seeds 0 1] [--degraded] [--root DIR]

First the time of an iteration is measured for each variant. Turns with the control alternate, as the machine's speed
may change; with --root the times are kept. Then the control trains for --iterations, and each variant for the
iterations that take the same time.

Prints JSON. For each variant and seed, of the averaged weights on the fold's validation cases:

- Dice of the masks without mirroring, as a mean and by label;
- expected calibration error of their probabilities near the foreground, not tempered
  (textdiffseg/evaluation/calibration.py);
- Dice with mirroring (--mirroring);
- Dice of degraded scans, as a mean and by degradation (--degraded; textdiffseg/degradations.py).

The sampler is not trained, as it does not change the masks.

For each variant also the differences from the control of the figures that each case has: of the cases' means over
seeds. They have the 95% interval of a paired bootstrap. variant_changes.py has the changes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bootstrap import paired
from shifts import dice_of_stored
from stored import (
    fold_parser,
    held_out,
    in_own_process,
    machine,
    mean,
    predict,
    prepare,
    read_split,
    score,
    stored_scans,
)
from variant_changes import CHANGES, CONTROL

from plans.layout import FoldFolder
from textdiffseg.data.augment import Augmentation
from textdiffseg.degradations import DEGRADATIONS
from textdiffseg.evaluation.summary import summarise
from textdiffseg.files import write_atomically
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.model import build_model
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import run_epochs
from textdiffseg.training.optimise import train_step
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.setup import TrainingSetup, set_up_fold
from textdiffseg.validation.calibrate import gather
from textdiffseg.validation.evidence import scores as calibration_scores
from textdiffseg_cli.common import positive_int, run, whole_number

EPOCHS = 4
TURNS, ITERATIONS_A_TURN = 7, 2  # of timing
PER_CASE = {  # figures of cases, and their difference
    "cases": "minus_control",
    "degraded_cases": "degraded_minus_control",
    "ece_of_cases": "ece_minus_control",
}


def main() -> int:
    """Time, train and score the variants, and print the report."""
    parser = fold_parser(__doc__)
    parser.add_argument("--changes", nargs="*", choices=tuple(CHANGES), default=[], metavar="NAME", help=listed())
    parser.add_argument("--preset", choices=("default", "unet"), default="default")
    parser.add_argument("--iterations", type=positive_int, default=500, help="of the control")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--mirroring", action="store_true", help="score with mirroring as well")
    parser.add_argument("--degraded", action="store_true", help="score degraded scans as well")
    return run(compare, parser.parse_args())


def listed() -> str:
    """The names of all changes, for --help."""
    return "; ".join(name for name in CHANGES if name != CONTROL)


def compare(args: argparse.Namespace) -> None:
    """Print the figures of the control and of every change."""
    names = [CONTROL, *args.changes]
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        preprocessed = prepare(args.data, root, args.preset, args.device)
        held_out(preprocessed, args.fold)
        costs = timed(root / f"costs_{args.data.name}_{args.preset}_{args.device}.json", preprocessed, names, args)
        runs: dict[str, list[dict]] = {name: [] for name in names}
        scored = f"{args.data.name}, {args.preset}, fold {args.fold}, {args.cases or 'all'} cases, {args.device}"
        scored += ", also mirrored" * args.mirroring + ", also degraded" * args.degraded
        for seed in args.seeds:
            for name in names:
                iterations = round(args.iterations / costs[name])
                folder = root / "variants" / scored / f"{name}, seed {seed}, {iterations} iterations"
                if not (folder / "figures.json").is_file():
                    in_own_process(examine, preprocessed, folder, name, iterations, seed, args)
                runs[name].append(json.loads((folder / "figures.json").read_text()))
    settings = {name: getattr(args, name) for name in ("preset", "fold", "seeds", "iterations")}
    report = {"benchmark": "variants", "dataset": args.data.name} | settings | machine(args.device)
    variants = {name: describe(costs[name], runs[name], runs[CONTROL]) for name in names}
    print(json.dumps(report | {"variants": variants}, indent=1))


def describe(cost: float, runs: list[dict], control: list[dict]) -> dict:
    """The figures of a variant for each seed, and its differences from the control."""
    description: dict = {"cost_an_iteration": round(cost, 3)}
    description["seeds"] = [
        {name: value for name, value in figures.items() if name not in PER_CASE} for figures in runs
    ]
    for name, difference in PER_CASE.items():
        if name not in control[0]:
            continue
        ours, theirs = case_means(runs, name), case_means(control, name)
        description[difference] = paired(np.array([ours[case] - theirs[case] for case in ours if case in theirs]))
    return description


def case_means(runs: list[dict], name: str) -> dict[str, float]:
    """The mean over seeds for each case that has a value with every seed."""
    cases = [case for case in runs[0][name] if all(case in figures[name] for figures in runs)]
    return {case: mean(figures[name][case] for figures in runs) for case in cases}


def timed(path: Path, preprocessed: Path, names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """The time of an iteration of each variant relative to the control's. Times in the file `path` are reused."""
    known = json.loads(path.read_text()) if path.is_file() else {CONTROL: 1.0}
    if missing := [name for name in names if name not in known and CHANGES[name].costs]:
        known |= in_own_process(time_in_turns, preprocessed, missing, args)
        write_atomically(path, json.dumps(known))
    return {name: known.get(name, 1.0) for name in names}


def time_in_turns(preprocessed: Path, names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """The median over turns of a variant's seconds divided by the control's in the same turn."""
    both = [CONTROL, *names]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        opened = {name: begin(preprocessed, Path(temporary) / name, name, 1, 0, args) for name in both}
        for turn in range(TURNS + 1):  # the first is the warm-up
            seconds = {name: time_turn(*opened[name], turn) for name in both}
            for name in names if turn else ():
                ratios[name].append(seconds[name] / seconds[CONTROL])
    return {name: statistics.median(runs) for name, runs in ratios.items()}


def time_turn(setup: TrainingSetup, state: TrainingState, turn: int) -> float:
    """The seconds of a few iterations without loading."""
    total = 0.0
    for batch in setup.loader.epoch(turn, ITERATIONS_A_TURN):
        clock = time.perf_counter()
        train_step(state, setup.bank, batch, setup.compiled).read()  # reading waits for the device
        total += time.perf_counter() - clock
    return total


def begin(
    preprocessed: Path, folder: Path, name: str, iterations: int, seed: int, args: argparse.Namespace
) -> tuple[TrainingSetup, TrainingState]:
    """The run and the initial training state of a variant."""
    options = TrainingOptions(device=args.device, seed=seed, compile=False)
    plain = set_up_fold(
        preprocessed, read_split(preprocessed, args.fold), FoldFolder(folder), options, args.preset, print, None
    )
    changed = replace(plain, plan=CHANGES[name].plan(plain.plan))
    changed.loader.samples.plan = changed.patches.plan = changed.plan  # it decides what a sample holds
    changed.loader.samples.augment = Augmentation(changed.plan)
    torch.manual_seed(seed)
    model = CHANGES[name].model(build_model(changed.plan)).to(args.device)
    position = TrainingPosition(seed=seed, epochs=EPOCHS, iterations_per_epoch=-(-iterations // EPOCHS))
    state = TrainingState.start(model, position)
    state.objective = CHANGES[name].objective(state)
    return changed, state


def examine(preprocessed: Path, folder: Path, name: str, iterations: int, seed: int, args: argparse.Namespace) -> None:
    """Train and score a variant, and write figures.json."""
    setup, state = begin(preprocessed, folder, name, iterations, seed, args)
    with CHANGES[name].applied():
        run_epochs(setup, state)
    state.model.load_state_dict(state.ema)
    model, last = state.model.eval(), read_log(folder / "log.jsonl")[-1]
    cases = held_out(preprocessed, args.fold, args.cases)
    figures: dict = {"iterations": last.iteration}
    predictor = Predictor([model], PredictionSettings(), args.device)
    plain = scores(predictor, setup.bank, preprocessed, cases)
    plain["ece_of_cases"] = calibration_errors(predictor, setup.bank, preprocessed, cases)
    figures |= {"dice": mean(plain["cases"].values()), "labels": plain["labels"]}
    figures |= {"ece": mean(plain["ece_of_cases"].values())}
    if args.mirroring:
        mirrored = Predictor([model], PredictionSettings(mirror_axes=model.plan.mirror_axes), args.device)
        figures["mirrored"] = mean(scores(mirrored, setup.bank, preprocessed, cases)["cases"].values())
    if args.degraded:
        found = degraded_scores(predictor, setup.bank, preprocessed, cases)
        plain["degraded_cases"] = {case: mean(by_case[case] for by_case in found.values()) for case in cases}
        figures["degraded"] = mean(plain["degraded_cases"].values())
        figures["degradations"] = {name: mean(by_case.values()) for name, by_case in found.items()}
    figures |= {name: plain[name] for name in PER_CASE if name in plain}
    write_atomically(folder / "figures.json", json.dumps(figures, indent=1))


def scores(predictor: Predictor, bank: TextBank, preprocessed: Path, cases: list[str]) -> dict:
    """Dice by case and by label."""
    plan, queries = predictor.plan, bank.all_labels()
    scores_of_cases = [
        score(plan, scan, predict(predictor, scan, queries)) for scan in stored_scans(preprocessed, cases, plan, bank)
    ]
    labels = {name: means.dice for name, means in summarise(scores_of_cases).labels.items()}
    cases = {case.case: case.mean_dice for case in scores_of_cases if case.mean_dice is not None}
    return {"cases": cases, "labels": labels}


def degraded_scores(
    predictor: Predictor, bank: TextBank, preprocessed: Path, cases: list[str]
) -> dict[str, dict[str, float]]:
    """Dice by degradation and case. Each case has a seed of its own."""
    return {
        name: {
            case: dice_of_stored(predictor, bank, preprocessed, case, (name, seed)) for seed, case in enumerate(cases)
        }
        for name in DEGRADATIONS
    }


def calibration_errors(predictor: Predictor, bank: TextBank, preprocessed: Path, cases: list[str]) -> dict[str, float]:
    """The expected calibration error of each case that has foreground."""
    voxels = {case: gather(predictor, bank, preprocessed, [case]).voxels for case in cases}
    return {case: float(calibration_scores(sampled)[0, 0]) for case, sampled in voxels.items() if sampled}


if __name__ == "__main__":
    sys.exit(main())
