"""Compare presets with the same data, fold, seeds and training time. Scores are those of the validation cases.

Prints JSON. For each preset and seed:

- mean Dice and NSD at 1 mm on the original grids;
- iterations and their rate, and the peak memory of the training process;
- Dice of decoded true latents (preset default; the last weights, on validation patches);
- with diffusion, Dice at several step counts, of one sample and of the mean of eight.

With both presets also the difference in Dice, for each seed and for the cases' means over seeds. Each difference has
the 95% interval of a paired bootstrap over cases.

    python benchmarks/accuracy.py [--data DIR] [--minutes 20] [--seeds 0 1 2] [--device cpu] [--root DIR]
    python benchmarks/accuracy.py --epochs 10
    python benchmarks/accuracy.py --fold all --test imagesTs labelsTs --device cuda --minutes 4.72

--epochs trains a number of iterations in place of minutes. Other programs on the machine then change no score.

--test predicts and scores other scans with tds_predict and tds_evaluate. --fold all trains on every case. Then only
these scans are scored.

With --root the trained folds are kept, and an interrupted run resumes. If the root already holds plans and stored
cases (e.g. copied to a GPU machine), raw data and SimpleITK are only needed for --test. A later call on another
machine can do that part. Without MONAI there is no NSD. The JSON lists what was left out.
"""

import argparse
import importlib.util
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bootstrap import paired
from stored import (
    add_length,
    dice,
    fold_parser,
    held_out,
    in_own_process,
    left_out,
    length,
    machine,
    mean,
    prepare,
    read_split,
    stored_scans,
)

from plans.errors import UserError
from plans.layout import ALL, FoldFolder, PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.splits import Split
from textdiffseg.evaluation.summary import Summary
from textdiffseg.files import write_atomically
from textdiffseg.folds.lock import alone
from textdiffseg.folds.position import read_position
from textdiffseg.folds.sampling import PredictionSettings, Sampling, mask_settings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.model import can_sample
from textdiffseg.resources import loading_workers
from textdiffseg.text.bank import TextBank
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import train_fold
from textdiffseg.training.options import TrainingOptions
from textdiffseg.validation.choose import choose_sampling
from textdiffseg.validation.score import validate_fold
from textdiffseg_cli.common import positive_int, run, whole_number

PRESETS = ("default", "unet")
SAMPLES = 8  # diffusion samples whose mean is compared with one sample
TEST_SUMMARY = "test_summary.json"
BARS = {"true_latent_dice": 0.92, "most_steps_below_best": 0.003}


def main() -> int:
    """Train and score the presets, and print the report."""
    parser = fold_parser(__doc__)
    add_length(parser, 20.0)
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--steps", type=positive_int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument(
        "--test", type=Path, nargs=2, metavar=("IMAGES", "LABELS"), help="folders of scans and references to score, too"
    )
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every preset and seed, and of `default` minus `unet` where both ran."""
    if args.test and importlib.util.find_spec("SimpleITK") is None:
        raise UserError("--test reads image files with SimpleITK, which is not installed: run it elsewhere, on --root.")
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        figures: dict[str, dict] = {preset: {} for preset in args.presets}
        folders: dict[str, list[Path]] = {preset: [] for preset in args.presets}
        for seed in args.seeds:  # seed by seed, so that presets can be compared even if the run is interrupted
            for preset in args.presets:
                preprocessed = prepare(args.data, root, preset, args.device)
                check(preprocessed, preset, args)
                folder = trained(root, args, preset, seed)
                in_own_process(train, preprocessed, folder, preset, seed, args)
                figures[preset][str(seed)] = in_own_process(measure, preprocessed, folder, args)
                folders[preset].append(folder)
        gaps = compared(folders, args) if set(PRESETS) <= set(folders) else {}
    settings = {"fold": args.fold} | length(args) | {"seeds": args.seeds}
    report = {"benchmark": "accuracy", "dataset": args.data.name} | settings | machine(args.device)
    print(json.dumps(report | {"left_out": left_out(), "bars": BARS, "presets": figures} | gaps, indent=1))


def check(preprocessed: Path, preset: str, args: argparse.Namespace) -> None:
    """Raise `UserError` before the training for figures that could not be measured after it."""
    if not args.test:
        held_out(preprocessed, args.fold)
    plan = Plan.read(PreprocessedFolder(preprocessed).plan(preset))
    if plan.sample_steps is not None:
        mask_settings(plan, Sampling(), steps=max(args.steps))


def trained(root: Path, args: argparse.Namespace, preset: str, seed: int) -> Path:
    """The folder of a trained fold. It differs from the folders of tds_train."""
    return root / "results" / args.data.name / f"{preset}_seed{seed}" / f"fold_{args.fold}"


def train(
    preprocessed: Path,
    folder: Path,
    preset: str,
    seed: int,
    args: argparse.Namespace,
    split: Split | None = None,
    init_from: Path | None = None,
) -> None:
    """Train one fold and write its peak memory to benchmark.json. A finished fold is not trained again.

    The wall time with start and compilation is also written, if the whole training ran in one call.

    `split` replaces that of the fold. `init_from` is the folder of a model to start from.
    """
    noted, position = folder / "benchmark.json", read_position(FoldFolder(folder))
    settings = length(args) | {"device": args.device}
    if position is not None:
        settings_before = json.loads(noted.read_text()) if noted.is_file() else {}
        if differing := [name for name, value in settings.items() if settings_before.get(name, "unknown") != value]:
            listing = ", ".join(
                f"{name} {settings_before.get(name, 'unknown')}, not {settings[name]}" for name in differing
            )
            raise UserError(f"{folder} was trained with {listing}: choose another --root, or delete it.")
    if position is not None and position.finished:
        return
    write_atomically(noted, json.dumps(settings))
    options = TrainingOptions(
        max_minutes=settings.get("minutes"),
        epochs=settings.get("epochs"),
        device=args.device,
        workers=loading_workers(args.device),
        seed=seed,
        init_from=init_from,
    )
    clock = time.perf_counter()
    with alone(FoldFolder(folder)):
        train_fold(
            preprocessed, split or read_split(preprocessed, args.fold), FoldFolder(folder), options, preset, print
        )
    wall = {} if position else {"wall_minutes": round((time.perf_counter() - clock) / 60, 2)}
    write_atomically(noted, json.dumps(settings | wall | peak_memory(args.device)))


def peak_memory(device: str) -> dict[str, float]:
    """The peak memory of this process in GB: host memory and, on a GPU, torch's allocator."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    peak = {"peak_host_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)}
    if device == "cuda":
        peak["peak_cuda_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peak


def measure(preprocessed: Path, folder: Path, args: argparse.Namespace) -> dict:
    """All figures of one trained fold."""
    figures = training(folder)
    if args.fold != ALL:
        cases = held_out(preprocessed, args.fold, args.cases)
        figures |= describe(preprocessed, folder, cases, args.device) | steps_table(preprocessed, folder, cases, args)
    if args.test:
        figures["test"] = test(folder, *args.test, args)
    return figures


def test(folder: Path, images: Path, labels: Path, args: argparse.Namespace) -> dict:
    """The scores of the scans of --test, computed with the project's commands."""
    from textdiffseg_cli import evaluate, predict

    out = folder / "test"
    model = ["-m", str(folder.parent), "--folds", args.fold, "--device", args.device]
    for command, arguments in (
        (predict, ["-i", str(images), "-o", str(out), *model]),
        (evaluate, [str(out), str(labels), "-o", str(folder / TEST_SUMMARY)]),
    ):
        if command.main(arguments):
            raise UserError(f"{command.__name__} failed.")
    return scores(Summary.read(folder / TEST_SUMMARY))


def describe(preprocessed: Path, folder: Path, cases: list[str], device: str) -> dict:
    """The scores of one trained fold on validation cases."""
    sampling = choose_sampling(FoldFolder(folder), preprocessed, cases, device=device)
    figures = scores(validate_fold(FoldFolder(folder), preprocessed, cases, device=device))
    figures["sampling"] = sampling.model_dump(mode="json", include={"steps", "samples", "mirroring"})
    if carried := read_log(folder / "log.jsonl")[-1].latent_dice:
        figures["true_latent_dice"] = carried
    return figures


def scores(summary: Summary) -> dict:
    """The mean scores over cases, for the report."""
    labels = {name: means.dice for name, means in summary.labels.items()}
    return {"dice": summary.mean.dice, "nsd": summary.mean.nsd, "labels": labels, "cases": len(summary.cases)}


def training(folder: Path) -> dict:
    """The length, rate and memory of a fold's training."""
    last, noted = read_log(folder / "log.jsonl")[-1], json.loads((folder / "benchmark.json").read_text())
    return {
        "iterations": last.iteration,
        "iterations_per_second": round(last.iteration / last.seconds, 3),
        "training_minutes": round(last.seconds / 60, 2),
        **{name: value for name, value in noted.items() if name not in ("minutes", "epochs", "device")},
    }


def steps_table(preprocessed: Path, folder: Path, cases: list[str], args: argparse.Namespace) -> dict:
    """Dice without mirroring at each step count, for one sample and the mean of several; {} without samples."""
    model, bank = load_network(FoldFolder(folder), device=args.device), TextBank.load(FoldFolder(folder).words)
    if model.plan.diffusion is None or not can_sample([model]):
        return {}
    rows = []
    for samples in (1, SAMPLES):
        for steps in args.steps:
            predictor = Predictor([model], PredictionSettings(steps=steps, samples=samples), args.device)
            start = time.perf_counter()
            scans = stored_scans(preprocessed, cases, model.plan, bank)
            mean_dice = mean(dice(predictor, scans, bank.all_labels()).values())
            seconds = (time.perf_counter() - start) / len(cases)
            rows.append({"steps": steps, "samples": samples, "dice": mean_dice, "seconds_a_case": round(seconds, 3)})
    single = {row["steps"]: row["dice"] for row in rows if row["samples"] == 1 and row["dice"] is not None}
    gap = max(single.values()) - single[max(single)] if single else None
    return {"steps": rows, "most_steps_below_best": gap}


def compared(folders: dict[str, list[Path]], args: argparse.Namespace) -> dict[str, dict]:
    """The differences between the presets on the validation cases and on the scans of --test, if they were scored."""
    files = {"default_minus_unet": "validation/summary.json"} if args.fold != ALL else {}
    files |= {"default_minus_unet_test": TEST_SUMMARY} if args.test else {}
    rows = {}
    for name, file in files.items():
        ours, theirs = ([Summary.read(folder / file) for folder in folders[preset]] for preset in PRESETS)
        rows[name] = differences(args.seeds, ours, theirs)
    return rows


def differences(seeds: list[int], ours: list[Summary], theirs: list[Summary]) -> dict:
    """Dice of `ours` minus `theirs`, for each seed and for the cases' means over seeds."""
    gaps = [case_gaps(a, b) for a, b in zip(ours, theirs, strict=True)]
    shared = sorted(set.intersection(*(set(by_case) for by_case in gaps)))
    pooled = np.array([[by_case[case] for case in shared] for by_case in gaps]).mean(0)
    per_seed = {str(seed): paired(np.array(list(by_case.values()))) for seed, by_case in zip(seeds, gaps, strict=True)}
    return {"per_seed": per_seed, "pooled": paired(pooled)}


def case_gaps(a: Summary, b: Summary) -> dict[str, float]:
    """Mean Dice of a minus mean Dice of b, for each case with both."""
    first, second = ({case.case: case.mean_dice for case in summary.cases} for summary in (a, b))
    both = sorted(case for case in first.keys() & second.keys() if None not in (first[case], second[case]))
    return {case: first[case] - second[case] for case in both}


if __name__ == "__main__":
    sys.exit(main())
