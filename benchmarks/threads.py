"""The seconds of one training step on a CPU with one thread and with one thread per core, beside busy programs.

The thread counts alternate inside one process, so that both meet the same load. Prints JSON with medians.

    python benchmarks/threads.py [--root DIR] [--steps 5] [--neighbours 0 1 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from speed import Trainer, open_loader
from stored import in_own_process, machine, prepare, shared_data

from textdiffseg.resources import cores
from textdiffseg_cli.common import positive_int, run, whole_number

ROUNDS = 3  # each thread count is measured so often
BUSY = "while True: pass"


def main() -> int:
    """Time the steps and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared_data() / "Dataset004_Hippocampus", help="the raw data set")
    parser.add_argument("--root", type=Path, help="plans and stored cases (default: a temporary folder)")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=positive_int, default=5, metavar="N", help="steps in a row")
    parser.add_argument("--neighbours", type=whole_number, nargs="+", default=[0, 1, 2], help="busy programs beside")
    return run(measure, parser.parse_args())


def measure(args: argparse.Namespace) -> None:
    """Print the figures, one entry per number of busy programs."""
    args.batch, args.device, args.iterations = None, "cpu", args.steps
    with tempfile.TemporaryDirectory() as temporary:
        preprocessed = prepare(args.data, args.root or Path(temporary), args.preset, args.device)
        beside = {str(count): in_own_process(compare, preprocessed, args, count) for count in args.neighbours}
    print(json.dumps({"benchmark": "threads"} | machine("cpu") | {"neighbours": beside}, indent=1))


def compare(preprocessed: Path, args: argparse.Namespace, neighbours: int) -> dict:
    """Median seconds of a step for each thread count, and their ratio."""
    trainer, batch = Trainer(preprocessed, args, "eager"), open_loader(preprocessed, args, 0).batch(0, 0)
    seconds: dict[int, list[float]] = {1: [], cores(): []}
    trainer.seconds([batch])
    with busy_programs(neighbours):
        load = os.getloadavg()[0]
        for _ in range(ROUNDS):
            for threads, times in seconds.items():
                torch.set_num_threads(threads)
                trainer.seconds([batch])  # the threads start here
                times.append(trainer.seconds([batch] * args.steps) / args.steps)
    medians = {threads: statistics.median(times) for threads, times in seconds.items()}
    return {
        "load_at_start": round(load, 2),
        "seconds_per_step": {str(threads): round(value, 3) for threads, value in medians.items()},
        "all_cores_against_one": round(medians[cores()] / medians[1], 2),
    }


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Other programs, each of which keeps one core busy."""
    programs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    sys.exit(main())
