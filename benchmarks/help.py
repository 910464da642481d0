"""The time of `--help` of every command, relative to `python -c pass`. Prints medians and ratios as JSON.

    python benchmarks/help.py [--repeats 15]

The bar is a ratio of at most 8. The exit code is 1 if a command misses it.
"""

import argparse
import configparser
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BAR = 8.0
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="runs of each command (default: 15)")
    repeats = parser.parse_args().repeats
    calls = {"pass": [sys.executable, "-c", "pass"], **commands()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():  # alternating, so that a busy machine affects all equally
            start = time.perf_counter()
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
            if repeat:  # the first round fills the disk's cache
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: median / medians["pass"] for name, median in medians.items() if name != "pass"}
    result = {
        "benchmark": "help",
        "repeats": repeats,
        "python_pass_ms": round(1000 * medians["pass"], 1),
        "help_ms": {name: round(1000 * medians[name], 1) for name in ratios},
        "ratio": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "worst_ratio": round(max(ratios.values()), 2),
        "bar": BAR,
        "reached": max(ratios.values()) <= BAR,
    }
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


def commands() -> dict[str, list[str]]:
    """The `--help` call of each installed script, by name."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    names = [line.partition("=")[0].strip() for line in setup["options.entry_points"]["console_scripts"].split("\n")]
    folder = Path(sys.executable).parent
    return {name: [str(folder / name), "--help"] for name in names if name}


if __name__ == "__main__":
    sys.exit(main())
