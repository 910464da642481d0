"""The time to plan and preprocess the 208 hippocampus cases, compared with nnU-Net's command and equal processes.

Prints JSON: the seconds of each run, the medians and their ratio. The bar is a third of nnU-Net's wall time.

With `--full`, whole CTs: one worker process of each side measures and stores a real CT of 41 slices, and the same with
275 slices. Both resample to the same spacing with the same normalisation and crop. `store-body` is ours with its own
crop. The bars are a quarter of nnU-Net's CPU seconds and half of its peak memory, for `store`.

    python benchmarks/preprocessing.py [--data DIR] [--nnunet-env VENV] [--repeats 3]
    python benchmarks/preprocessing.py --full [--scan FILE] [--slices 275] [--nnunet-env VENV]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import whole_scans

NNUNET = "nnunetv2==2.8.1"
BAR = 1 / 3
FULL_BARS = {"cpu_seconds": 1 / 4, "peak_mb": 1 / 2}
DATASET = "Dataset004_Hippocampus"
BODY = ("ours", "store-body")  # with the crop of our plans for CT; nnU-Net crops to the nonzero voxels


def main() -> None:
    """Run both commands alternately and print the figures."""
    repository = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("TDS_SHARED_DATA", repository.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared / DATASET, help="the raw data set")
    parser.add_argument("--nnunet-env", type=Path, help=f"virtual environment with {NNUNET} (default: one is made)")
    parser.add_argument("--torch", default="torch==2.13.0", help="torch requirement of an environment made here")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="whole CTs in place of the data set")
    parser.add_argument("--scan", type=Path, default=shared / "scans" / "CRLM-CT-1004.nii.gz", help="CT for --full")
    parser.add_argument("--slices", type=int, default=275, help="slices of the longer CT of --full")
    args = parser.parse_args()
    if args.full:
        print(json.dumps(full_report(args), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        raw = work / "raw" / DATASET
        link_data_set(args.data, raw)
        environment = args.nnunet_env or make_environment(work / "nnunet", args.torch)
        ours, theirs = [], []
        for repeat in range(args.repeats):
            ours.append(run_ours(work, repeat, args.workers))
            theirs.append(run_nnunet(environment, work, repeat, args.workers))
    ratio = statistics.median(ours) / statistics.median(theirs)
    report = {
        "cases": len(list((args.data / "labelsTr").glob("*.nii.gz"))),
        "workers": args.workers,
        "seconds": [round(value, 2) for value in ours],
        "nnunet_seconds": [round(value, 2) for value in theirs],
        "median_seconds": round(statistics.median(ours), 2),
        "nnunet_median_seconds": round(statistics.median(theirs), 2),
        "ratio": round(ratio, 3),
        "bar": round(BAR, 3),
        "passed": ratio <= BAR,
    }
    print(json.dumps(report, indent=1))


def full_report(args: argparse.Namespace) -> dict[str, object]:
    """The CPU seconds and the peak memory of each stage on whole CTs, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = args.nnunet_env or make_environment(work / "nnunet", args.torch)
        shapes = whole_scans.make(work / "raw" / whole_scans.DATASET, args.scan, args.slices)
        pythons = {"ours": sys.executable, "nnunet": str(environment / "bin" / "python")}
        runs = [("ours", "measure"), ("nnunet", "measure"), ("ours", "store"), ("nnunet", "store")]
        found = {(side, stage): run_worker(pythons[side], side, stage, work) for side, stage in [*runs, BODY]}
    ratios = {}
    for (side, stage), mine in found.items():
        if side == "ours":
            theirs = found["nnunet", stage.partition("-")[0]]
            ratios[stage] = {name: round(mine[name] / theirs[name], 3) for name in mine}
    passed = all(ratios["store"][name] <= bar for name, bar in FULL_BARS.items())
    named = {f"{side} {stage}": figures for (side, stage), figures in found.items()}
    return {"shapes": shapes, "runs": named, "ratios": ratios, "bars": FULL_BARS, "passed": passed}


def run_worker(python: str, side: str, stage: str, work: Path) -> dict[str, float]:
    """The CPU seconds and the peak memory in MB of one stage, in a process with one thread."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [python, whole_scans.__file__, side, stage, str(work)]
    return json.loads(completed(command, threads).stdout.splitlines()[-1])


def link_data_set(source: Path, target: Path) -> None:
    """Make a raw data set of links to files, so that neither command writes into the original."""
    target.mkdir(parents=True)
    (target / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir()
        for path in (source / part).iterdir():
            (target / part / path.name).symlink_to(path.resolve())


def make_environment(folder: Path, torch: str) -> Path:
    """A virtual environment with nnU-Net."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, torch], check=True)
    subprocess.run([*install, NNUNET], check=True)
    return folder


def run_ours(work: Path, repeat: int, workers: int) -> float:
    """The seconds of tds_plan_and_preprocess in an empty root."""
    root = work / f"ours_{repeat}"
    root.mkdir()
    (root / "raw").symlink_to(work / "raw")
    command = [str(Path(sys.executable).parent / "tds_plan_and_preprocess"), "4"]
    return timed([*command, "--root", str(root), "--workers", str(workers)], {})


def run_nnunet(environment: Path, work: Path, repeat: int, workers: int) -> float:
    """The seconds of nnUNetv2_plan_and_preprocess in empty folders."""
    folders = {
        "nnUNet_raw": str(work / "raw"),
        "nnUNet_preprocessed": str(work / f"theirs_{repeat}"),
        "nnUNet_results": str(work / "results"),
    }
    command = [str(environment / "bin" / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", "3d_fullres"]
    return timed([*command, "-np", str(workers), "-npfp", str(workers)], folders)


def timed(command: list[str], environment: dict[str, str]) -> float:
    """The wall seconds of a command. Raises `SystemExit` if it fails."""
    start = time.perf_counter()
    completed(command, environment)
    return time.perf_counter() - start


def completed(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that has run. Raises `SystemExit` if it fails."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done


if __name__ == "__main__":
    main()
