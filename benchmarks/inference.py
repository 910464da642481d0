"""Host time and memory of predicting whole CTs, with a network that takes no time. Prints JSON.

    python benchmarks/inference.py [--slices 275 600] [--labels 3 60 117] [--patch 64 160 168] [--against 7c4106f]

The scans are made from the real CT of the shared data: 512 x 512 x SLICES voxels of 0.8 x 0.8 x 1.24 mm. The plan has
this spacing. The network returns the same logits for every window. So only the host's work is left: read,
resample, sums over windows, restore, write. Each scan and number of labels has its own process.

Bars: the longest stage takes at most 8 s with 275 slices and 3 labels; 600 slices and 117 labels take at most 8 GB; the
estimate is within 20% of the peak.

`--against 7c4106f` predicts the scans with 3 labels at most by that commit, too, which kept labels x volume in memory.
Its source comes from git. Bar: at most a third of its CPU seconds.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from null_network import null_logits, null_plan, null_stages
from peaks import peak_memory
from stored import in_own_process, machine, shared_data
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple, triple
from plans.plan import Crop, Plan
from plans.raw.prompts import Prompts
from textdiffseg.folds.calibration import AppliedCalibration
from textdiffseg.folds.ensemble import Ensemble
from textdiffseg.folds.sampling import PredictionSettings, Sampling
from textdiffseg.imaging.sources.files import read_geometry
from textdiffseg.inference.memory import MIN_VALUE_BYTES, scan_ram_gb
from textdiffseg.inference.model import Model
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import CalibratedPredictor
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.tasks import stages
from textdiffseg.tasks.one_scan import PredictionRun
from textdiffseg.text.bank import build_bank
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg_cli.common import positive_int, run

SPACING = (1.24, 0.8, 0.8)  # mm
SCAN = "scans/CRLM-CT-1004.nii.gz"
BARS = {"longest_stage_s": 8.0, "peak_gb": 8.0, "estimate_off_by": 0.2, "cpu_ratio": 0.33}
MAX_EARLIER_LABELS = 3
PACKAGES = ("plans", "textdiffseg", "textdiffseg_cli")


class NoEncoder:
    """Random vectors of each phrase in place of a text encoder."""

    name, width = "none", 64

    def encode(self, phrases: list[str], longest: int | None = None) -> list[PhraseVectors]:
        """One token for each phrase, which is its vector."""
        generators = [np.random.default_rng(list(phrase.encode())) for phrase in phrases]
        drawn = [torch.from_numpy(generator.normal(size=(1, self.width))).float() for generator in generators]
        return [PhraseVectors(tokens, tokens[0]) for tokens in drawn]


class NoNetwork:
    """A segmenter that takes no time (`null_logits`)."""

    schedule = None

    def __init__(self, patch: Triple, labels: int, windows: int):
        self.made = null_logits(patch, labels, windows)
        self.output = torch.empty_like(self.made)  # it is overwritten with the probabilities

    def logits(self, patches: Tensor, queries: Queries, z_T: Tensor, steps: int, *_: Tensor) -> Iterator[Tensor]:
        """The same logits for every window (B, 1 + Q, D, H, W). Older code gives no factors."""
        yield self.output.copy_(self.made)[: len(patches)]


def main() -> int:
    """Make the scans, predict them, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=positive_int, nargs="+", default=[275, 600], metavar="N")
    parser.add_argument("--labels", type=positive_int, nargs="+", default=[3, 60, 117], metavar="N")
    parser.add_argument("--patch", type=positive_int, nargs=3, default=[64, 160, 168], metavar="N")
    parser.add_argument(
        "--overlap", type=float, default=0.5, metavar="X", help="of windows; memory does not depend on it"
    )
    parser.add_argument("--crop", choices=("none", "body"), default="none", help="the estimate assumes none")
    parser.add_argument("--in-plane", type=positive_int, default=512, metavar="N", help="voxels along x and y")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit; its API must be that of 7c4106f")
    return run(measure, parser.parse_args())


def measure(args: argparse.Namespace) -> None:
    """Print the figures of each scan and number of labels."""
    report = {
        "benchmark": "inference",
        "patch": args.patch,
        "overlap": args.overlap,
        "crop": args.crop,
        "bars": BARS,
    } | machine("cpu")
    report["scans"] = []
    with tempfile.TemporaryDirectory() as temporary:
        tree = None if args.against is None else export(args.against, Path(temporary) / "earlier")
        for slices in args.slices:
            path = Path(temporary) / f"{slices}.nii.gz"
            in_own_process(make_scan, path, slices, args.in_plane)
            for labels in args.labels:
                out = Path(temporary) / f"{slices}_{labels}"
                figures = in_own_process(predict, path, out, args, labels)
                if tree is not None and labels <= MAX_EARLIER_LABELS:
                    figures |= compared(figures, path, out, tree, args, labels)
                report["scans"].append({"slices": slices, "labels": labels} | figures)
    print(json.dumps(report, indent=1))


def make_scan(path: Path, slices: int, in_plane: int) -> None:
    """Write the shared CT with other numbers of voxels. Its slices are repeated to and fro."""
    ct = np.asarray(nib.load(shared_data() / SCAN).dataobj)
    rows = np.linspace(0, ct.shape[0] - 1, in_plane).round().astype(int)
    forth = np.arange(ct.shape[2])
    order = np.resize(np.concatenate((forth, forth[::-1])), slices)
    image = nib.Nifti1Image(ct[np.ix_(rows, rows, order)].astype(np.int16), np.diag([*SPACING[::-1], 1.0]))
    nib.save(image, path)


def predict(path: Path, out: Path, args: argparse.Namespace, labels: int) -> dict[str, Any]:
    """The seconds of each stage of one scan, the peak memory, and the estimate."""
    prediction_run = run_of(out, triple(args.patch), labels, args.overlap, args.crop)
    geometry = read_geometry(path)
    assert geometry is not None, "expected a readable header"
    estimate, work, costs = (
        scan_ram_gb(prediction_run.prepared, geometry, value_bytes=MIN_VALUE_BYTES),
        stages.start(prediction_run, "ct", (path,)),
        {},
    )

    def stage(name: str, function: Callable[[stages.Work], stages.Work]) -> None:
        nonlocal work
        wall, cpu = time.perf_counter(), time.process_time()
        (work,) = stages.each(function, [work])
        if work.fault is not None:
            raise work.fault
        costs[name] = {"s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}

    with peak_memory() as peak:
        stage("read", lambda work: stages.read(prediction_run, work))
        assert work.scan is not None, "expected a scan that was read"
        cropped = scan_ram_gb(prediction_run.prepared, geometry, work.scan.transform.shape, value_bytes=MIN_VALUE_BYTES)
        stage("segment", lambda work: stages.segment(prediction_run, work, lambda _: None, lambda: False, None))
        stage("write", lambda work: stages.write(prediction_run, work))
    assert estimate is not None, "expected an estimate"
    assert cropped is not None, "expected an estimate"
    return {
        "stages": costs,
        "cpu_s": round(sum(cost["cpu_s"] for cost in costs.values()), 2),
        "longest_s": max(cost["s"] for cost in costs.values()),
        "peak_gb": round(peak[0], 2),
        "estimate_gb": round(estimate, 2),
        "off_by": round(estimate / peak[0] - 1, 2),
        "estimate_after_reading_gb": round(cropped, 2),
        "off_by_after_reading": round(cropped / peak[0] - 1, 2),
    }


def export(commit: str, folder: Path) -> Path:
    """The folder with the packages of a commit."""
    archive = ("git", "-C", str(Path(__file__).resolve().parents[1]), "archive", commit, *PACKAGES)
    done = subprocess.run(archive, capture_output=True, check=False)
    if done.returncode:
        raise UserError(
            f"--against {commit}: git cannot export this commit ({done.stderr.decode().strip()}). Run this in a clone "
            "with the whole history: git fetch --unshallow."
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def compared(
    figures: dict[str, Any], path: Path, out: Path, tree: Path, args: argparse.Namespace, labels: int
) -> dict[str, Any]:
    """The cost of an earlier commit, our share of its CPU seconds, and the share of voxels with the same label."""
    script, earlier = Path(__file__).with_name("earlier_inference.py"), out.with_name(f"{out.name}_earlier")
    numbers = map(str, (labels, *args.patch, *SPACING))
    command = [sys.executable, str(script), str(path), str(earlier), *numbers]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True)
    cost = json.loads(done.stdout)
    ours, theirs = (np.asarray(nib.load(next(folder.glob("*.nii.gz"))).dataobj) for folder in (out, earlier))
    return {
        "earlier": cost,
        "cpu_ratio": round(figures["cpu_s"] / cost["cpu_s"], 2),
        "same_labels": round(float(np.mean(ours == theirs)), 6),
    }


def run_of(out: Path, patch: Triple, labels: int, overlap: float, crop: Crop) -> PredictionRun:
    """A prediction into a folder, with the network that takes no time."""
    plan = plan_of(patch, labels, crop)
    names = tuple(label.name for label in plan.labels)
    bank = build_bank(Prompts(scan="a CT", labels={name: (name,) for name in names}), names, NoEncoder())
    network = build_model(plan).eval()
    predictor = Predictor([network], PredictionSettings(overlap=overlap))
    predictor.segmenters = (NoNetwork(patch, labels, predictor.room.windows),)
    ensemble = Ensemble((out,), ("0",), "best", (network,), plan, bank, Sampling(), (), "0" * 64)
    prepared = PreparedModel(select_labels(plan, bank), CalibratedPredictor(predictor, AppliedCalibration()))
    return PredictionRun(Model(ensemble, "cpu"), prepared, {}, out, None, False)


def plan_of(patch: Triple, labels: int, crop: Crop) -> Plan:
    """A plan for CT with the smallest network."""
    changes = {"crop": crop, "stages": null_stages(1, 2, 2), "fusion_level": 2}
    return Plan.model_validate(null_plan(patch, SPACING, labels) | changes)


if __name__ == "__main__":
    sys.exit(main())
