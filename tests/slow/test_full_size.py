"""Six CTs of 512 x 512 x 100 to 600 voxels from planning to scores.

The scans are made: a body with three organs. Each stage is a process of its own. Its time and its peak memory are
printed. `TDS_FULL_SIZE_SHARE=0.25` makes the scans smaller along each axis, to try the test itself.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.slow
SHARE = float(os.environ.get("TDS_FULL_SIZE_SHARE", "1"))
SLICES, EDGE = (100, 200, 300, 400, 500, 600), 512
EXTENT_MM = (600.0, 400.0, 400.0)  # of 600 slices; (D, H, W)
LABELS = {"liver": 1, "spleen": 2, "kidney": 3}
ORGANS = {  # HU, centre and half axes as shares of the extent (D, H, W)
    1: (120, (0.5, 0.45, 0.35), (0.2, 0.15, 0.14)),
    2: (200, (0.55, 0.5, 0.68), (0.12, 0.1, 0.08)),
    3: (260, (0.35, 0.6, 0.6), (0.1, 0.07, 0.06)),
}
NAME, ITERATIONS, EPOCHS = "Dataset960_FullSize", 10, 4  # iterations of an epoch; the last epoch is of the sampler
SAMPLE_SECONDS = 0.2
# A stage ends where the next one would begin.
PLAN = "import textdiffseg.tasks.plan as task; task._store = lambda *_: 0"
TRAIN = "import textdiffseg.tasks.train as task; task.validate = lambda *_: sys.exit(0)"


def write_case(folder: Path, split: str, case: str, slices: int) -> None:
    """Write a scan and its label map, which are packed well."""
    import nibabel

    edge = max(32, round(EDGE * SHARE))
    slices = max(12, round(slices * SHARE))
    step = np.array(EXTENT_MM) / [max(SLICES) * SHARE, edge, edge]
    size = np.array([slices, edge, edge])
    h, w = ((axis + 0.5) / edge - 0.5 for axis in np.ogrid[:edge, :edge])
    scan = np.where(np.hypot(h / 0.33, w / 0.42) < 1, np.int16(40), np.int16(-1000))[None].repeat(slices, 0)
    labels = np.zeros(scan.shape, np.uint8)
    for number, (value, centre, radii) in ORGANS.items():
        middle, half = size * centre, size * radii
        first = (middle - half).astype(int)
        box = tuple(slice(low, low + int(2 * r) + 2) for low, r in zip(first, half, strict=True))
        axes = np.ogrid[box]
        organ = sum(((axis + 0.5 - m) / r) ** 2 for axis, m, r in zip(axes, middle, half, strict=True)) < 1
        scan[box][organ], labels[box][organ] = value, number
    affine = np.diag([-step[2], -step[1], step[0], 1.0])
    for part, name, array in ((f"images{split}", f"{case}_0000", scan), (f"labels{split}", case, labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
        image.header.set_xyzt_units("mm")
        with gzip.open(folder / part / f"{name}.nii.gz", "wb", compresslevel=1) as file:
            file.write(image.to_bytes())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root with the raw data: six training cases, and one scan to predict."""
    root = tmp_path_factory.mktemp("full")
    folder = root / "raw" / NAME
    for number, slices in enumerate(SLICES):
        write_case(folder, "Tr", f"ct_{number}", slices)
    write_case(folder, "Ts", "new", max(SLICES))
    fields = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **LABELS}}
    (folder / "dataset.json").write_text(json.dumps(fields | {"numTraining": 6, "file_ending": ".nii.gz"}))
    return root


@pytest.fixture
def stage(repository, tmp_path, capsys):
    """A function that runs one stage in a process of its own, and prints its seconds and its peak memory."""

    def run(name: str, command: str, *arguments: object, patch: str = "") -> None:
        call = f"from textdiffseg_cli.{command} import main; sys.exit(main(sys.argv[1:]))"
        code = f"import sys; {patch or 'pass'}; {call}"
        whole = [sys.executable, "-c", code, *map(str, arguments)]
        began, peak, log = time.monotonic(), 0.0, tmp_path / f"{name}.txt"
        with log.open("w") as file:
            process = subprocess.Popen(
                whole, env=os.environ | {"PYTHONPATH": str(repository)}, stdout=file, stderr=subprocess.STDOUT
            )
            while process.poll() is None:
                peak = max(peak, tree_gb(process.pid))
                time.sleep(SAMPLE_SECONDS)
        with capsys.disabled():
            print(f"{name:9} {time.monotonic() - began:7.1f} s {peak:6.2f} GB", flush=True)
        assert process.returncode == 0, log.read_text()[-3000:]

    return run


def tree_gb(process: int) -> float:
    """The memory of a process and its children in GB. Pages that they share are counted for each."""
    try:
        parent = psutil.Process(process)
        return sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True))) / 1e9
    except psutil.NoSuchProcess:
        return 0.0


def test_from_planning_to_scores(root, stage):
    at, out = ("--root", root), root / "out"
    stage("plan", "plan_and_preprocess", NAME, *at, patch=PLAN)
    path = root / "preprocessed" / NAME / "plan.json"
    plan = json.loads(path.read_text())
    plan["training"]["iterations_per_epoch"] = ITERATIONS
    stage("store", "plan_and_preprocess", NAME, *at)
    path.write_text(json.dumps(plan))
    train = (NAME, 0, *at, "--epochs", EPOCHS, "--device", "cpu")
    stage("train", "train", *train, patch=TRAIN)
    stage("validate", "train", *train)
    model, scans = root / "results" / NAME / "default", root / "raw" / NAME / "imagesTs"
    stage("predict", "predict", "-i", scans, "-o", out, "-m", model, "--device", "cpu")
    stage("evaluate", "evaluate", out, scans.with_name("labelsTs"), "-o", root / "scores.json")
    log = [json.loads(line) for line in (model / "fold_0" / "log.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in log] == [10, 20, 30, 32]
    assert all(0 < one["data_seconds"] < one["iteration_seconds"] for one in log)
    (scores,) = json.loads((root / "scores.json").read_text())["cases"]
    assert (scores["case"], set(scores["labels"])) == ("new", set(LABELS))
