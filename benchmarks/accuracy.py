"""Presets against each other: same data, fold, seeds and minutes of training, scored on the validation cases.

Prints JSON. For each preset and seed: mean Dice and NSD at 1 mm on the original grids, iterations and their rate,
peak memory of the training process, what the latent carries by itself, and for a preset with diffusion the Dice at
several step counts, of one sample and of the mean of eight. With both presets, the difference in Dice with the 95%
interval of a paired bootstrap over cases, for each seed and of the cases' means over seeds.

    python benchmarks/accuracy.py [--data DIR] [--minutes 20] [--seeds 0 1 2] [--device cpu] [--root DIR]

With --root the trained folds stay there, and a run that was broken off goes on. Where the root holds the plans and
stored cases already (carried to a GPU machine, say), the raw data and SimpleITK are not needed; without MONAI there
is no NSD. The JSON says what was left out.
"""

import argparse
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
    dice,
    fold_parser,
    in_own_process,
    left_out,
    machine,
    mean,
    prepare,
    read_fold,
    some,
    stored_scan,
)

from plans.errors import UserError
from plans.records import write_atomically
from textdiffseg.evaluation.report import Summary
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.settings import Settings
from textdiffseg.inference.validation import choose_sampling, validate_fold
from textdiffseg.networks.weights import load_model
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import read_progress
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import fit
from textdiffseg.training.run import TrainingOptions
from textdiffseg_cli.common import loading_workers, positive_float, positive_int, run, whole_number

PRESETS = ("default", "unet")
SAMPLES = 8  # whose mean is set beside one sample
BARS = {"latent_reconstruction_dice": 0.97, "most_steps_below_best": 0.003}


def main() -> int:
    """Train, validate, print."""
    parser = fold_parser(__doc__)
    parser.add_argument("--minutes", type=positive_float, default=20.0, help="of training, for each preset and seed")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--steps", type=positive_int, nargs="+", default=[1, 2, 4, 10], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every preset and seed, and of `default` minus `unet` where both ran."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        figures: dict[str, dict] = {preset: {} for preset in args.presets}
        summaries: dict[str, list[Summary]] = {preset: [] for preset in args.presets}
        for seed in args.seeds:  # seed by seed, so that a run that is broken off can be compared
            for preset in args.presets:
                preprocessed = prepare(args.data, root, preset, args.device)
                folder = trained(root, args, preset, seed)
                in_own_process(train, preprocessed, folder, preset, seed, args)
                figures[preset][str(seed)] = in_own_process(measure, preprocessed, folder, args)
                summaries[preset].append(Summary.read(folder / "validation" / "summary.json"))
    settings = {name: getattr(args, name) for name in ("fold", "minutes", "seeds")}
    report = {"benchmark": "accuracy", "dataset": args.data.name} | settings | machine(args.device)
    report |= {"left_out": left_out(), "bars": BARS, "presets": figures}
    if set(PRESETS) <= set(summaries):
        report["default_minus_unet"] = differences(args.seeds, summaries["default"], summaries["unet"])
    print(json.dumps(report, indent=1))


def trained(root: Path, args: argparse.Namespace, preset: str, seed: int) -> Path:
    """The folder of a trained fold, apart from those of tds_train."""
    return root / "results" / args.data.name / f"{preset}_seed{seed}" / f"fold_{args.fold}"


def train(preprocessed: Path, folder: Path, preset: str, seed: int, args: argparse.Namespace) -> None:
    """Train one fold and note its peak memory beside it; a finished one is left as it is."""
    noted, progress = folder / "benchmark.json", read_progress(folder)
    if progress is not None and (minutes := json.loads(noted.read_text())["minutes"]) != args.minutes:
        raise UserError(
            f"{folder} was trained for --minutes {minutes:g}, not {args.minutes:g}: "
            "choose another --root, or delete it."
        )
    if progress is not None and progress.finished:
        return
    write_atomically(noted, json.dumps({"minutes": args.minutes}))
    options = TrainingOptions(
        max_minutes=args.minutes,
        device=args.device,
        workers=loading_workers(args.device),
        seed=seed,
        preset=preset,
    )
    fit(preprocessed, read_fold(preprocessed, args.fold), folder, options, print)
    write_atomically(noted, json.dumps({"minutes": args.minutes} | peak_memory(args.device)))


def peak_memory(device: str) -> dict[str, float]:
    """GB that this process has taken at most so far: of host memory and, on a GPU, of torch's allocator."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    peak = {"peak_host_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)}
    if device == "cuda":
        peak["peak_cuda_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peak


def measure(preprocessed: Path, folder: Path, args: argparse.Namespace) -> dict:
    """All figures of one trained fold."""
    cases = some(read_fold(preprocessed, args.fold).validation, args.cases)
    return describe(preprocessed, folder, cases, args.device) | steps_table(preprocessed, folder, cases, args)


def describe(preprocessed: Path, folder: Path, cases: list[str], device: str) -> dict:
    """Scores and speed of one trained fold."""
    sampling = choose_sampling(folder, preprocessed, cases, device=device)
    summary = validate_fold(folder, preprocessed, cases, device=device)
    log = read_log(folder / "log.jsonl")
    noted = json.loads((folder / "benchmark.json").read_text())
    figures = {
        "dice": summary.mean.dice,
        "nsd": summary.mean.nsd,
        "labels": {name: scores.dice for name, scores in summary.labels.items()},
        "cases": len(summary.cases),
        "iterations": log[-1].iteration,
        "iterations_per_second": round(log[-1].iteration / log[-1].seconds, 3),
        "training_minutes": round(log[-1].seconds / 60, 2),
        **{name: value for name, value in noted.items() if name != "minutes"},
        "sampling": sampling.model_dump(mode="json", include={"steps", "samples", "mirroring"}),
    }
    if log[-1].reconstruction_dice:
        figures["latent_reconstruction_dice"] = log[-1].reconstruction_dice
    return figures


def steps_table(preprocessed: Path, folder: Path, cases: list[str], args: argparse.Namespace) -> dict:
    """Dice without mirroring at each step count, of one sample and of the mean of several; {} without diffusion."""
    model, bank = load_model(folder, device=args.device), TextBank.load(folder / "text_bank.safetensors")
    if model.plan.diffusion is None:
        return {}
    rows = []
    for samples in (1, SAMPLES):
        for steps in args.steps:
            predictor = Predictor([model], Settings(steps=steps, samples=samples), args.device)
            start = time.perf_counter()
            scans = (stored_scan(preprocessed, case) for case in cases)
            found = mean(dice(predictor, scans, bank.all_labels()).values())
            seconds = (time.perf_counter() - start) / len(cases)
            rows.append({"steps": steps, "samples": samples, "dice": found, "seconds_a_case": round(seconds, 3)})
    single = {row["steps"]: row["dice"] for row in rows if row["samples"] == 1 and row["dice"] is not None}
    gap = max(single.values()) - single[max(single)] if single else None
    return {"steps": rows, "most_steps_below_best": gap}


def differences(seeds: list[int], ours: list[Summary], theirs: list[Summary]) -> dict:
    """Dice of ours minus theirs for each seed, and of the cases' means over seeds."""
    gaps = [case_gaps(a, b) for a, b in zip(ours, theirs, strict=True)]
    shared = sorted(set.intersection(*(set(one) for one in gaps)))
    pooled = np.array([[one[case] for case in shared] for one in gaps]).mean(0)
    per_seed = {str(seed): paired(np.array(list(one.values()))) for seed, one in zip(seeds, gaps, strict=True)}
    return {"per_seed": per_seed, "pooled": paired(pooled)}


def case_gaps(a: Summary, b: Summary) -> dict[str, float]:
    """By case, mean Dice of a minus that of b, where both have one."""
    first, second = ({case.case: case.mean_dice for case in summary.cases} for summary in (a, b))
    both = sorted(case for case in first.keys() & second.keys() if None not in (first[case], second[case]))
    return {case: first[case] - second[case] for case in both}


if __name__ == "__main__":
    sys.exit(main())
