"""The seconds of one scan with the mask, with OpenVINO, --fast, --best and four alternatives. Prints JSON.

    taskset -c 1 python benchmarks/modes.py MODEL_FOLDER SCAN [--repeats 3]

The scan is read, segmented and not written, with a model that is loaded already. The modes alternate. Figures are
medians: CPU seconds on a CPU, seconds on a GPU. OpenVINO is left out on a GPU, and where it is not installed. `dice` is
that of its mask and torch's: the mean of the labels. `best` differs from the mask only if validation found that a more
expensive setting has a better Dice.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from stored import add_device, machine, mean

import textdiffseg as tds
from textdiffseg.evaluation.metrics import dice
from textdiffseg_cli.common import positive_int, run

MODES: dict[str, dict] = {
    "mask": {},
    "fast": {"effort": "fast"},
    "best": {"effort": "best"},
    "four alternatives": {"alternatives": 4},
}


def main() -> int:
    """Segment the scan in each mode and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="it holds fold_0, ...")
    parser.add_argument("scan", type=Path, metavar="SCAN", help="one scan")
    parser.add_argument("--repeats", type=positive_int, default=3, metavar="N", help="of each mode (default: 3)")
    add_device(parser)
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the seconds of each mode, and their ratio to the mask."""
    model = tds.load(args.model, device=args.device)
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    modes = {mode: partial(model.segment, args.scan, **options) for mode, options in MODES.items()}
    mask, same = model.segment(args.scan), {}
    if args.device == "cpu" and importlib.util.find_spec("openvino"):
        modes["openvino"] = partial(tds.load(args.model, device="cpu", backend="openvino").segment, args.scan)
        same["openvino"] = {"dice": agreement(modes["openvino"](), mask)}  # and the network is converted
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(args.repeats):
        for mode, segment in modes.items():
            began = clock()
            segment()
            seconds[mode].append(clock() - began)
    medians = {mode: statistics.median(runs) for mode, runs in seconds.items()}
    rows = {
        mode: {"s": round(s, 2), "ratio": round(s / medians["mask"], 2)} | same.get(mode, {})
        for mode, s in medians.items()
    }
    report = {"benchmark": "modes", "scan": args.scan.name} | machine(args.device)
    print(json.dumps(report | {"modes": rows}, indent=1))


def agreement(a: tds.Result, b: tds.Result) -> float | None:
    """The mean Dice of two masks, over the labels that one of them has."""
    scores = [dice(a.mask(name), b.mask(name)) for name in a.names]
    return mean(score for score in scores if score is not None)


if __name__ == "__main__":
    sys.exit(main())
