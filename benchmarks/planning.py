"""Our plans beside nnU-Net's for five made data sets at equal memory: patch, windows, multiplications, parameters.

    python benchmarks/planning.py [--memory-gb 8 24] [--random N] [--nnunet-env VENV]

With --random, N data sets of random shapes, spacings and labels take the place of the five. Nothing is trained and no
image is read. nnU-Net's plans come from its own planners, in the environment --nnunet-env or this one. Without nnU-Net
only our plans are printed. Prints JSON.

Both sides are counted alike: the multiply-accumulates of a mask's forward pass of one window, times the windows of a
median case at an overlap of one half, without mirroring. Cases are not cropped on either side.

The bar: our patch has at least as many voxels as nnU-Net's, and a case costs at most as many multiplications. The bar
compares with the default planner. That of the residual encoder (ResEnc) is printed beside it.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from plans.fingerprint import CaseFingerprint, Fingerprint, LabelFingerprint
from plans.geometry import Millimetres, Triple, triple
from plans.plan import LabelPlan, TextPlan
from plans.planning import memory
from plans.planning.budget import gpu_budget
from plans.planning.planner import USUAL_TEXT_WIDTH, make_plan
from plans.planning.rules import windows

NNUNET = "nnunetv2==2.8.1"
REFERENCE = "ExperimentPlanner"


@dataclass(frozen=True)
class MadeDataset:
    """The measurements from which both sides plan. Axis order (D, H, W), spacings in mm."""

    name: str
    channels: tuple[str, ...]
    labels: int
    thickness: tuple[float, ...]  # of each label, in mm
    shapes: tuple[Triple, ...]
    spacings: tuple[Millimetres, ...]


def made(
    name: str,
    channels: Sequence[str],
    thickness: Sequence[float],
    kinds: Sequence[tuple[int, Triple, Millimetres]],
) -> MadeDataset:
    """A data set. `kinds` holds the number of cases with a shape and a spacing."""
    shapes = tuple(shape for count, shape, _ in kinds for _ in range(count))
    spacings = tuple(spacing for count, _, spacing in kinds for _ in range(count))
    return MadeDataset(name, tuple(channels), len(thickness), tuple(thickness), shapes, spacings)


ORGANS = (90, 40, 35, 35, 15, 10, 25, 50, 14, 12, 10, 7, 7)  # mm
DATASETS = (
    made("abdominal CT", ["CT"], ORGANS, [(200, (206, 512, 512), (1.24, 0.8, 0.8))]),
    made(
        "cardiac MR, thick slices",
        ["MRI"],
        (30, 8, 30),
        [(120, (9, 256, 216), (10.0, 1.5, 1.5)), (30, (18, 256, 216), (5.0, 1.5, 1.5))],
    ),
    made("brain MR, four channels", ["T1", "T1ce", "T2", "FLAIR"], (8, 25, 15), [(484, (140, 170, 140), (1, 1, 1))]),
    made("head and neck CT", ["CT"], (25, 9, 25, 25, 9, 20, 10), [(100, (140, 512, 512), (3.0, 0.98, 0.98))]),
    made("hippocampus MR", ["MRI"], (8, 7), [(208, (35, 51, 36), (1, 1, 1))]),
)


def random_datasets(count: int, seed: int = 3) -> tuple[MadeDataset, ...]:
    """Data sets of four kinds in turn: CT, MR in slices, isotropic MR, and MR in few thick slices."""
    draw = random.Random(seed)

    def whole(low: int, high: int) -> int:
        return draw.randint(low, high)

    def one(index: int) -> MadeDataset:
        channels = ["MRI"]
        if index % 4 == 0:
            shape, fine = (whole(80, 400), 512, 512), draw.uniform(0.6, 1.0)
            depth, channels = draw.uniform(0.8, 2.4), ["CT"]
        elif index % 4 == 1:
            shape = whole(20, 160), draw.choice([256, 320, 384, 512]), draw.choice([256, 320, 512])
            fine = draw.uniform(0.5, 1.2)
            depth = fine * draw.uniform(2.5, 6)
        elif index % 4 == 2:
            shape = whole(90, 260), whole(90, 260), whole(90, 260)
            depth = fine = draw.uniform(0.7, 1.3)
            channels = ["T1", "T2"][: whole(1, 2)]
        else:
            shape, fine = (whole(8, 40), whole(180, 400), whole(180, 400)), draw.uniform(0.6, 1.6)
            depth = fine * draw.uniform(3.2, 8)
        thickness = [round(draw.uniform(6, 40), 1) for _ in range(whole(1, 15))]
        spacing = round(depth, 3), round(fine, 3), round(fine, 3)
        return made(f"random {index}", channels, thickness, [(draw.choice([40, 120, 400]), shape, spacing)])

    return tuple(map(one, range(count)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory-gb", type=float, nargs="+", default=[8.0, 24.0], help="default: 8 24")
    parser.add_argument("--nnunet-env", type=Path, help=f"virtual environment with {NNUNET} (default: this one)")
    parser.add_argument("--random", type=int, metavar="N", help="random data sets instead of the five")
    args = parser.parse_args()
    datasets = random_datasets(args.random) if args.random else DATASETS
    theirs, missing = nnunet_plans(datasets, args.memory_gb, args.nnunet_env)
    rows = [compared(dataset, gb, theirs) for dataset in datasets for gb in args.memory_gb]
    report = {"benchmark": "planning", "nnunet": NNUNET, "left_out": missing, "plans": rows}
    if theirs:
        report["rows_reached"] = sum(row["reached"] for row in rows)
        report["reached"] = report["rows_reached"] == len(rows)
    print(json.dumps(report, indent=1))
    return 0


def nnunet_plans(
    datasets: Sequence[MadeDataset], memory_gb: Sequence[float], environment: Path | None
) -> tuple[list[dict], list[str]]:
    """nnU-Net's plans, and a sentence if it is not installed."""
    python = environment / "bin" / "python" if environment else Path(sys.executable)
    if not python.is_file() or subprocess.run([str(python), "-c", "import nnunetv2"], capture_output=True).returncode:
        return [], [f"nnU-Net's plans: {NNUNET} is not installed in {environment or 'this environment'}"]
    script = Path(__file__).with_name("nnunet_plans.py")
    request = json.dumps({"datasets": [asdict(dataset) for dataset in datasets], "memory_gb": list(memory_gb)})
    done = subprocess.run([str(python), str(script)], input=request, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout), []


def compared(dataset: MadeDataset, gb: float, theirs: Sequence[dict]) -> dict:
    """Our plan and nnU-Net's for one data set and memory. `reached`: whether ours reaches the bar."""
    ours = our_plan(dataset, gb)
    row = {"dataset": dataset.name, "memory_gb": gb, "ours": ours}
    for nnunet_plan in theirs:
        if (nnunet_plan["dataset"], nnunet_plan["memory_gb"]) == (dataset.name, gb):
            nnunet_values = {name: nnunet_plan[name] for name in ("spacing", "median_shape", "patch", "batch")}
            row[nnunet_plan["planner"]] = nnunet_values | costs(triple(nnunet_plan["median_shape"]), nnunet_plan)
    if reference := row.get(REFERENCE):
        row["patch_ratio"] = round(prod(ours["patch"]) / prod(reference["patch"]), 3)
        row["macs_ratio"] = round(ours["tera_macs_a_case"] / reference["tera_macs_a_case"], 3)
        row["reached"] = row["patch_ratio"] >= 1 and row["macs_ratio"] <= 1
    return row


def our_plan(dataset: MadeDataset, gb: float) -> dict:
    """Our plan of preset `default`. Its mask needs no sampler, so the sampler has parameters but no work here."""
    labels = [LabelPlan(name=f"label {value}", value=value) for value in range(1, dataset.labels + 1)]
    plan = make_plan(
        dataset.name,
        dataset.channels,
        labels,
        fingerprint_of(dataset),
        budget=gpu_budget(gb),
        preset="default",
        text=TextPlan(encoder="bundled", width=USUAL_TEXT_WIDTH),
    )
    network = memory.network_of(plan)
    cost = {
        "patch": plan.patch,
        "macs": memory.macs(network, plan.patch),
        "parameters": memory.parameters(network),
    }
    described = {"spacing": plan.spacing, "median_shape": plan.median_shape, "patch": plan.patch, "batch": plan.batch}
    estimate = {"training_gb": round(plan.memory.training_gb, 2), "widths": [stage.width for stage in plan.stages]}
    return described | estimate | costs(plan.median_shape, cost)


def costs(median_shape: Triple, plan: dict) -> dict:
    """The windows and multiplications of a median case, and the parameters. `macs`: of one window."""
    patch = triple(plan["patch"])
    count = windows(median_shape, patch)
    return {
        "windows": count,
        "kilo_macs_a_voxel": round(plan["macs"] / prod(patch) / 1e3, 1),
        "tera_macs_a_case": round(count * plan["macs"] / 1e12, 4),
        "million_parameters": round(plan["parameters"] / 1e6, 1),
    }


def fingerprint_of(dataset: MadeDataset) -> Fingerprint:
    """The made data set as our fingerprint."""
    labels = tuple(
        LabelFingerprint(label=number, voxels=1000, volume_mm3=1000, thickness_mm=mm, extent_mm=(mm, mm, mm))
        for number, mm in enumerate(dataset.thickness, start=1)
    )
    cases = tuple(
        CaseFingerprint(
            case=f"case_{index}",
            shape=shape,
            spacing=spacing,
            cropped_shape=shape,
            intensities=((0.0, 1.0),) * len(dataset.channels),
            labels=labels,
            content_hash=str(index),
        )
        for index, (shape, spacing) in enumerate(zip(dataset.shapes, dataset.spacings, strict=True))
    )
    return Fingerprint(dataset="Dataset001_Made", cases=cases)


if __name__ == "__main__":
    sys.exit(main())
