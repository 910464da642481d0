"""Do windows that overlap less, or that are larger than in training, segment as well? Prints JSON.

    python benchmarks/windows.py FOLD_FOLDER [--cases 8] [--overlaps 0.5 0.375 0.25 0] [--scales 1 1.5]

Each row has an overlap, or a scale of the patch that the model was trained with: the Dice of the validation cases (mean
over labels and cases), the windows of all cases and the CPU seconds. The control is half overlap and the model's own
patch. A scaled patch is rounded down to a multiple of the network's stride.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from stored import (
    add_device,
    add_preprocessed,
    dice_by_case,
    held_out,
    machine,
    mean,
    preprocessed_beside,
    stored_scans,
)

from plans.geometry import Triple, triple
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_float, positive_int, run


def main() -> int:
    """Predict with each overlap and each patch, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    add_preprocessed(parser)
    parser.add_argument("--cases", type=positive_int, default=8, metavar="N", help="validation cases (default: 8)")
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.5, 0.375, 0.25, 0], metavar="X")
    parser.add_argument("--scales", type=positive_float, nargs="+", default=[1, 1.5], metavar="X", help="of the patch")
    add_device(parser)
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the table of a fold."""
    fold = FoldFolder(args.fold)
    plan = Plan.read(fold.plan)
    preprocessed = args.preprocessed or preprocessed_beside(args.fold, plan.dataset)
    cases = held_out(preprocessed, args.fold.name.removeprefix("fold_"), args.cases)
    usual_overlap = PredictionSettings().overlap
    rows = [row(args, plan.patch, overlap, preprocessed, cases) for overlap in args.overlaps]
    rows += [row(args, scaled(plan, scale), usual_overlap, preprocessed, cases) for scale in args.scales if scale != 1]
    print(json.dumps({"benchmark": "windows", "cases": cases} | machine(args.device) | {"rows": rows}, indent=1))


def scaled(plan: Plan, scale: float) -> Triple:
    """The patch times `scale`, as a multiple of the network's stride."""
    return triple(
        max(stride, int(edge * scale) // stride * stride)
        for edge, stride in zip(plan.patch, plan.total_stride, strict=True)
    )


def row(
    args: argparse.Namespace, patch: Triple, overlap: float, preprocessed: Path, cases: list[str]
) -> dict[str, Any]:
    """The figures of one overlap and patch."""
    network = load_network(FoldFolder(args.fold), device=args.device)
    network.plan = network.plan.model_copy(update={"patch": patch})
    bank, predictor = (
        TextBank.load(FoldFolder(args.fold).words),
        Predictor([network], PredictionSettings(overlap=overlap), args.device),
    )
    scans = list(stored_scans(preprocessed, cases, network.plan, bank))
    began = time.process_time()
    scores = dice_by_case(predictor, scans, bank.all_labels())
    return {
        "overlap": overlap,
        "patch": patch,
        "dice": mean(value for of_case in scores.values() for value in of_case.values()),
        "windows": sum(predictor.windows(triple(scan.image.shape[1:])) for scan in scans),
        "cpu_s": round(time.process_time() - began, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
