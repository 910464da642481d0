"""The seconds from the start of `tds_predict` to its first window, as JSON.

    python benchmarks/first_window.py --model FOLDER --scan FILE [--other DIR] [--repeats 7]

Each run is a separate process with one thread. It ends just before the network computes its first window. With
--other, runs alternate with those of another checkout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CODE = """
import os, sys, time
import psutil
from textdiffseg_cli.common import run  # the commands' own setting of threads
from textdiffseg_cli import predict

def first(*_):
    began = psutil.Process().create_time()
    print(f"FIRST {time.time() - began}", file=sys.__stdout__, flush=True)
    os._exit(0)

def work():
    from textdiffseg.inference.predictor import Predictor
    Predictor._compute = first
    return predict.main(sys.argv[1:])

sys.exit(work())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a trained model")
    parser.add_argument("--scan", type=Path, required=True, metavar="FILE", help="one scan")
    parser.add_argument("--other", type=Path, metavar="DIR", help="another checkout to compare with")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="runs of each (default: 7)")
    args = parser.parse_args()
    sources = {"this": REPOSITORY, **({"other": args.other} if args.other else {})}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for repeat in range(args.repeats + 1):
        for name, source in sources.items():  # alternating, so that a busy machine affects all equally
            times = until_first_window(source, args.model, args.scan)
            if repeat:  # the first round fills the disk's cache
                seconds[name].append(times)
    medians = {name: round(statistics.median(times), 2) for name, times in seconds.items()}
    report = {"benchmark": "first_window", "repeats": args.repeats, "seconds": medians}
    if args.other:
        pairs = zip(seconds["this"], seconds["other"], strict=True)
        report["ratio"] = round(statistics.median(mine / theirs for mine, theirs in pairs), 3)
    print(json.dumps(report, indent=1))
    return 0


def until_first_window(source: Path, model: Path, scan: Path) -> float:
    """The seconds from the start of a process to its first window."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", CODE, "-i", str(scan), "-o", out, "-m", str(model), "--device", "cpu"]
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, encoding="utf-8", check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIRST ")]
    if not lines:
        raise SystemExit(f"{source}: no window was computed:\n{done.stdout}{done.stderr}")
    return float(lines[-1].split()[1])


if __name__ == "__main__":
    sys.exit(main())
