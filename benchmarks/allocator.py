"""What it costs that the C library returns freed memory: CPU seconds of masks, with and without `keep_freed_memory`.

    taskset -c 1 python benchmarks/allocator.py FOLD_FOLDER --preprocessed DIR [--cases 4] [--repeats 3]

The same stored cases are predicted in turn by fresh processes with one thread. Prints JSON: the median CPU seconds of
both, the share of the system, page faults, peak memory in MB, and whether the probabilities are equal.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from stored import in_own_process, machine

from plans.layout import FoldFolder
from textdiffseg.allocator import keep_freed_memory
from textdiffseg.data.store import list_cases, open_case
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_int, run


def main() -> int:
    """Predict with both and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    parser.add_argument("--preprocessed", type=Path, required=True, metavar="DIR", help="of its data set")
    parser.add_argument("--cases", type=positive_int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--repeats", type=positive_int, default=3, metavar="N", help="of each (default: 3)")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the report."""
    runs: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
    for _ in range(args.repeats):
        for name, runs_of_name in runs.items():
            runs_of_name.append(in_own_process(predict, args.fold, args.preprocessed, args.cases, name == "kept"))
    medians = {
        name: {
            key: round(statistics.median(costs[key] for costs in runs_of_name), 3)
            for key in runs_of_name[0]
            if key != "sum"
        }
        for name, runs_of_name in runs.items()
    }
    report: dict[str, object] = {"benchmark": "allocator", "cases": args.cases, **machine("cpu"), **medians}
    report["ratio"] = round(medians["kept"]["cpu_seconds"] / medians["returned"]["cpu_seconds"], 3)
    report["equal"] = len({costs["sum"] for runs_of_name in runs.values() for costs in runs_of_name}) == 1
    print(json.dumps(report, indent=1))


def predict(fold: Path, preprocessed: Path, count: int, kept: bool) -> dict[str, float]:
    """The cost of predicting some cases in this process."""
    if kept and not keep_freed_memory():
        raise OSError("expected Linux with glibc")
    torch.set_num_threads(1)
    network, bank = load_network(FoldFolder(fold)), TextBank.load(FoldFolder(fold).words)
    predictor, total = Predictor([network], PredictionSettings()), 0.0
    images = [torch.from_numpy(open_case(preprocessed, case).image[:]) for case in list_cases(preprocessed)[:count]]
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    for image in images:
        total += float(predictor.predict_image(image, bank.all_labels()).probabilities.double().sum())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": time.process_time() - start,
        "system_seconds": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "peak_mb": after.ru_maxrss / 1024,
        "sum": total,
    }


if __name__ == "__main__":
    sys.exit(main())
