"""Presets against each other: the same data, fold, seed and minutes of training, scored on the fold's validation cases.

Prints JSON: for each preset the mean Dice and NSD on the original grids, iterations and their rate; with both
presets the difference in Dice and a paired bootstrap interval over cases. Folds are trained one after the other.

    python benchmarks/training.py [--data DIR] [--minutes 20] [--device cpu] [--root DIR]

With --root the trained folds stay there, and a run that was broken off goes on. Where the root holds the plans and
stored cases already (carried to a GPU machine, say), the raw data and SimpleITK are not needed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from plans.plan import plan_file
from textdiffseg.evaluation.report import Summary
from textdiffseg.training.log import read_log

PRESETS = ("default", "unet")


def main() -> None:
    """Train, validate, print."""
    here = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("TDS_SHARED_DATA", here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared / "Dataset004_Hippocampus", help="the raw data set")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each preset")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--root", type=Path, help="keep everything here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(compare(args, args.root or Path(temporary)), indent=1))


def compare(args: argparse.Namespace, root: Path) -> dict:
    """Figures of every preset, and of `default` minus `unet` where both ran."""
    name = args.data.name
    summaries, figures = {}, {}
    for preset in args.presets:
        folder = train(args, root, preset)
        summaries[preset] = Summary.read(folder / "validation" / "summary.json")
        figures[preset] = describe(summaries[preset], folder)
    report = {"dataset": name, "fold": args.fold, "seed": args.seed, "minutes": args.minutes} | machine(args.device)
    report["presets"] = figures
    if set(PRESETS) <= set(summaries):
        report["default_minus_unet"] = difference(summaries["default"], summaries["unet"])
    return report


def train(args: argparse.Namespace, root: Path, preset: str, planning: Sequence[str] = ()) -> Path:
    """Plan where there is no plan yet, train a fold and score it; returns the fold's folder."""
    name = args.data.name
    shared = ["--root", str(root), "--preset", preset]
    budget = ["--memory-gb", "8"] if args.device == "cuda" else []
    length = ["--max-minutes", str(args.minutes), "--seed", str(args.seed), "--device", args.device]
    if not (root / "preprocessed" / name / plan_file(preset)).is_file():
        call("tds_plan_and_preprocess", str(args.data), *shared, *budget, *planning)
    call("tds_train", name, args.fold, *shared, *length)
    return root / "results" / name / preset / f"fold_{args.fold}"


def call(command: str, *arguments: str) -> None:
    """Run a command of this environment, its output on stderr; its exit code becomes ours where it fails."""
    done = subprocess.run([Path(sys.executable).parent / command, *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def machine(device: str) -> dict:
    """Where the figures were measured."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"device": device, "gpu": gpu, "cores": os.cpu_count(), "torch": torch.__version__, "os": platform.system()}


def describe(summary: Summary, folder: Path) -> dict:
    """Scores and speed of one trained fold."""
    log = read_log(folder / "log.jsonl")
    return {
        "dice": summary.mean.dice,
        "nsd": summary.mean.nsd,
        "labels": {name: scores.dice for name, scores in summary.labels.items()},
        "cases": len(summary.cases),
        "iterations": log[-1].iteration,
        "iterations_per_second": round(log[-1].iteration / log[-1].seconds, 3),
        "training_minutes": round(log[-1].seconds / 60, 2),
        "latent_reconstruction_dice": log[-1].reconstruction_dice,
        "sampling": json.loads((folder / "sampling.json").read_text()),
    }


def difference(a: Summary, b: Summary, draws: int = 10_000) -> dict:
    """Mean Dice of a minus b over the cases they share, with the 95% interval of a paired bootstrap."""
    first, second = ({case.case: case_mean(case) for case in summary.cases} for summary in (a, b))
    shared = sorted(case for case in first.keys() & second.keys() if None not in (first[case], second[case]))
    gaps = np.array([first[case] - second[case] for case in shared])
    picks = np.random.default_rng(0).integers(len(gaps), size=(draws, len(gaps)))
    low, high = np.percentile(gaps[picks].mean(1), [2.5, 97.5])
    return {"dice": float(gaps.mean()), "interval_95": [float(low), float(high)], "cases": len(shared)}


def case_mean(case) -> float | None:
    """Mean Dice over the labels of a case that have one."""
    values = [scores.dice for scores in case.labels.values() if scores.dice is not None]
    return float(np.mean(values)) if values else None


if __name__ == "__main__":
    main()
