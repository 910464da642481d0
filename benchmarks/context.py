"""Does the overview of the scan show the network what lies outside its window? Look-alikes three patches apart.

    taskset -c 0 python benchmarks/context.py [--minutes 8] [--seeds 0 1 2] [--root DIR]

A scan is three patches wide (look_alikes.py). Two equal nodules lie in its middle, and only a marker at one end shows
which is the proximal one. Three models of preset unet are trained for the same minutes:

- `overview` reads the scan at low resolution beside its window,
- `window` reads its window alone, with the same patch and blocks,
- `guided` is the same as `window`, trained for half of the minutes. In the other half a low-resolution model learns,
  whose patch holds a whole scan. Full resolution is computed only where it found something. `low` is that model alone.

Claims, on new scans:

- with the overview, 95% of the nodules get the right name;
- without it, at most 70% do;
- with the overview not fewer than `guided`, and than `low`;
- prediction takes at most 1.1 times as long.

Prints JSON: for each model and seed the share of nodules with the right name, the Dice of both labels together, and the
seconds a scan; then the verdicts. The times of the models are measured in turns. With --root the trained folds are
kept, and an interrupted run resumes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import look_alikes
import numpy as np
from accuracy import train, training
from claims import FAILS, HOLDS
from phantom_scans import FIRST_SCORED
from stored import fold_parser, in_own_process, machine, prepare

from plans.layout import FoldFolder, PreprocessedFolder, low_model
from plans.network_plan import OverviewPlan
from plans.plan import Plan
from textdiffseg.evaluation.metrics import dice
from textdiffseg.files import write_atomically, write_record
from textdiffseg.folds.state import note_validated
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.model import Model
from textdiffseg.inference.segmenting import SegmentOptions
from textdiffseg_cli.common import positive_float, run, whole_number

TRAINING, PRESET = 60, "unet"
MODELS = {"overview": OverviewPlan(), "window": None, "guided": None}
LOW_SPACING = 2 * look_alikes.SPACING
BARS = {"overview": 0.95, "window": 0.7, "minus_guided": 0.0, "minus_low": 0.0, "time": 1.1}


def main() -> int:
    """Train and score the models, and print the report."""
    parser = fold_parser(__doc__, cases=40)
    parser.add_argument("--minutes", type=positive_float, default=8.0, help="of training, for each model and seed")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures and the verdicts."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        data, figures_of_seeds = look_alikes.write(root, TRAINING), []
        preprocessed, low = (
            prepare(data, folder, PRESET, args.device, ("--spacing", *(str(spacing),) * 3))
            for folder, spacing in ((root, look_alikes.SPACING), (root / "low", LOW_SPACING))
        )
        set_plan(low, resolution="low", overview=None)
        for seed in args.seeds:
            folds = {name: root / "results" / data.name / f"{name}_seed{seed}" / f"fold_{args.fold}" for name in MODELS}
            half = argparse.Namespace(minutes=args.minutes / 2, device=args.device, fold=args.fold)
            for name, fold in folds.items():
                set_plan(preprocessed, patch=look_alikes.PATCH, overview=MODELS[name])
                in_own_process(train, preprocessed, fold, PRESET, seed, half if name == "guided" else args)
            in_own_process(train, low, low_fold(folds["guided"]), PRESET, seed, half)
            trust(FoldFolder(low_fold(folds["guided"])))
            scores = in_own_process(scored, folds, args)
            trained = {name: training(fold) for name, fold in folds.items()}
            figures_of_seeds.append({name: figures | trained.get(name, {}) for name, figures in scores.items()})
    settings = {name: getattr(args, name) for name in ("minutes", "seeds", "cases")}
    report = {"benchmark": "context", "dataset": look_alikes.NAME} | settings | machine(args.device)
    print(
        json.dumps(
            report | {"seeds_apart": dict(zip(args.seeds, figures_of_seeds, strict=True))} | judged(figures_of_seeds),
            indent=1,
        )
    )


def set_plan(preprocessed: Path, **changes: object) -> None:
    """Write the plan with some fields changed."""
    path = PreprocessedFolder(preprocessed).plan(PRESET)
    write_record(path, Plan.read(path).model_copy(update=changes))


def trust(fold: FoldFolder) -> None:
    """Let a low-resolution fold guide the full one, whatever it finds: what that gives is measured here."""
    fold.validation.mkdir(exist_ok=True)
    write_atomically(fold.summary, "{}")
    note_validated(fold, dict.fromkeys(look_alikes.LABELS, 1.0))


def low_fold(fold: Path) -> Path:
    """The low-resolution fold beside a fold."""
    return low_model(fold.parent) / fold.name


def scored(folds: dict[str, Path], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """For each model the share of nodules with the right name, the Dice of all nodules, and the seconds a scan."""
    options = SegmentOptions(mirroring=False)
    models = {
        name: Model.load(fold.parent, folds=[args.fold], device=args.device).prepare(options)
        for name, fold in {**folds, "low": low_fold(folds["guided"])}.items()
    }
    shares, overlaps, seconds = ({name: [] for name in models} for _ in range(3))
    for index in range(args.cases):
        image, labels = look_alikes.draw(0, FIRST_SCORED + index)
        for name, model in models.items():
            volume, began = Volume(image[None], look_alikes.geometry()), time.perf_counter()
            labels_found = model.run(model.read(volume)).labels
            seconds[name].append(time.perf_counter() - began)
            shares[name].append(look_alikes.told_apart(labels_found, labels))
            overlaps[name].append(dice(labels_found > 0, labels > 0) or 0.0)
    return {
        name: {
            "right_names": float(np.mean(shares[name])),
            "dice_of_both": float(np.mean(overlaps[name])),
            "seconds_a_scan": statistics.median(seconds[name]),
        }
        for name in models
    }


def judged(figures_of_seeds: list[dict[str, dict[str, float]]]) -> dict:
    """The means over seeds, and the verdict on each claim."""
    rights = {
        name: float(np.mean([figures[name]["right_names"] for figures in figures_of_seeds]))
        for name in figures_of_seeds[0]
    }
    ratio = statistics.median(
        figures["overview"]["seconds_a_scan"] / figures["window"]["seconds_a_scan"] for figures in figures_of_seeds
    )
    holds = {
        "overview": rights["overview"] >= BARS["overview"],
        "window": rights["window"] <= BARS["window"],
        "minus_guided": rights["overview"] - rights["guided"] >= BARS["minus_guided"],
        "minus_low": rights["overview"] - rights["low"] >= BARS["minus_low"],
        "time": ratio <= BARS["time"],
    }
    verdict = {name: HOLDS if is_met else FAILS for name, is_met in holds.items()}
    return {"right_names": rights, "time_ratio": ratio, "bars": BARS, "verdict": verdict}


if __name__ == "__main__":
    sys.exit(main())
