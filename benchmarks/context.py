"""Does the overview of the scan show the network what lies outside its window? Look-alikes three patches apart.

    taskset -c 0 python benchmarks/context.py [--minutes 8] [--seeds 0 1 2] [--root DIR]

A scan is three patches wide (look_alikes.py). Two equal nodules lie in its middle, and only a marker at one end tells
which is the proximal one. Two models of preset unet are trained for the same minutes: `overview` reads the scan at low
resolution beside its window, `window` reads its window alone. Both have the same patch and blocks.

Claims, on new scans:

- with the overview, 95% of the nodules get the right name;
- without it, at most 70% do;
- prediction takes at most 1.1 times as long.

Prints JSON: for each model and seed the share of nodules with the right name, the Dice of both labels together, and the
seconds a scan; then the verdicts. The times of the two models are measured in turns. With --root the trained folds are
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

from plans.layout import PreprocessedFolder
from plans.network_plan import OverviewPlan
from plans.plan import Plan
from textdiffseg.evaluation.metrics import dice
from textdiffseg.files import write_record
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.model import Model
from textdiffseg.inference.segmenting import SegmentOptions
from textdiffseg_cli.common import positive_float, run, whole_number

TRAINING, PRESET = 60, "unet"
MODELS = {"overview": OverviewPlan(), "window": None}
BARS = {"overview": 0.95, "window": 0.7, "time": 1.1}


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
        data, found = look_alikes.write(root, TRAINING), []
        planning = ("--spacing", *(str(look_alikes.SPACING),) * 3)
        preprocessed = prepare(data, root, PRESET, args.device, planning)
        for seed in args.seeds:
            folds = {name: root / "results" / data.name / f"{name}_seed{seed}" / f"fold_{args.fold}" for name in MODELS}
            for name, fold in folds.items():
                set_plan(preprocessed, name)
                in_own_process(train, preprocessed, fold, PRESET, seed, args)
            scores = in_own_process(scored, folds, args)
            found.append({name: {**scores[name], **training(fold)} for name, fold in folds.items()})
    settings = {name: getattr(args, name) for name in ("minutes", "seeds", "cases")}
    report = {"benchmark": "context", "dataset": look_alikes.NAME} | settings | machine(args.device)
    print(json.dumps(report | {"seeds_apart": dict(zip(args.seeds, found, strict=True))} | judged(found), indent=1))


def set_plan(preprocessed: Path, name: str) -> None:
    """Write the plan of a model: the planned one with a third of the scan as patch, with or without an overview."""
    path = PreprocessedFolder(preprocessed).plan(PRESET)
    plan = Plan.read(path)
    write_record(path, plan.model_copy(update={"patch": look_alikes.PATCH, "overview": MODELS[name]}))


def scored(folds: dict[str, Path], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """For each model the share of nodules with the right name, the Dice of all nodules, and the seconds a scan."""
    options = SegmentOptions(mirroring=False)
    models = {
        name: Model.load(fold.parent, folds=[args.fold], device=args.device).prepare(options)
        for name, fold in folds.items()
    }
    shares, overlaps, seconds = ({name: [] for name in models} for _ in range(3))
    for index in range(args.cases):
        image, labels = look_alikes.draw(0, FIRST_SCORED + index)
        for name, model in models.items():
            volume, began = Volume(image[None], look_alikes.geometry()), time.perf_counter()
            found = model.run(model.read(volume)).labels
            seconds[name].append(time.perf_counter() - began)
            shares[name].append(look_alikes.told_apart(found, labels))
            overlaps[name].append(dice(found > 0, labels > 0) or 0.0)
    return {
        name: {
            "right_names": float(np.mean(shares[name])),
            "dice_of_both": float(np.mean(overlaps[name])),
            "seconds_a_scan": statistics.median(seconds[name]),
        }
        for name in models
    }


def judged(found: list[dict[str, dict[str, float]]]) -> dict:
    """The means over seeds, and the verdict on each claim."""
    rights = {name: float(np.mean([one[name]["right_names"] for one in found])) for name in MODELS}
    ratio = statistics.median(one["overview"]["seconds_a_scan"] / one["window"]["seconds_a_scan"] for one in found)
    holds = {
        "overview": rights["overview"] >= BARS["overview"],
        "window": rights["window"] <= BARS["window"],
        "time": ratio <= BARS["time"],
    }
    verdict = {name: HOLDS if one else FAILS for name, one in holds.items()}
    return {"right_names": rights, "time_ratio": ratio, "bars": BARS, "verdict": verdict}


if __name__ == "__main__":
    sys.exit(main())
