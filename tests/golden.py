"""The golden runs: short trainings on generated phantoms, as numbers that a change of the code must not move.

    python -m tests.golden          # runs them and writes tests/golden.json anew (`make golden`)

Each run goes through the commands that a user types: plan, preprocess, train 20 iterations, predict one scan. It is
made in float32 with one thread. `tests/test_golden.py` compares.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import numpy as np
import torch
from safetensors.torch import load_file

from plans.plan import Plan

PATH = Path(__file__).with_name("golden.json")
PRESETS = ("default", "unet", "paper", "peer-unet")
OVERLAPPING = "overlapping"  # preset default on labels that overlap
RUNS = (*PRESETS, OVERLAPPING)
EPOCHS, ITERATIONS = 4, 5  # an epoch
FIELD = (70.0, 68.0, 96.0)  # mm of a phantom (z, y, x): a few windows, most of which lie at a border of the scan
REGIONS = {
    "labels": {"background": 0, "liver and lesion": [1, 6], "lesion": 6, "glands": [4, 5]},
    "regions_class_order": [1, 6, 4],
}


def prepare(root: Path) -> None:
    """Write six phantoms below `root`, and the same with overlapping labels."""
    from textdiffseg import phantoms

    with mock.patch.object(phantoms, "FIELD", FIELD):
        folder = phantoms.write_phantoms(root, training=5, test=1)
    copy = folder.with_name(f"Dataset901_{OVERLAPPING}")
    copy.mkdir()
    header = json.loads((folder / "dataset.json").read_text())
    for part in ("imagesTr", "imagesTs"):
        (copy / part).symlink_to(folder / part)
    (copy / "labelsTr").mkdir()
    for path in (folder / "labelsTr").iterdir():
        _keep(path, copy / "labelsTr" / path.name, {1, 4, 5, 6})
    (copy / "dataset.json").write_text(json.dumps(header | REGIONS))


def run(name: str, root: Path) -> dict[str, object]:
    """The numbers of one golden run; `prepare` made `root`."""
    from textdiffseg_cli import plan_and_preprocess, predict, train

    dataset = next((root / "raw").glob("Dataset901*" if name == OVERLAPPING else "Dataset900*"))
    preset = "default" if name == OVERLAPPING else name
    at = ["--root", str(root)]
    with _reproducible(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        encoder = ["--text-encoder", "bundled", "--memory-gb", "8", "--workers", "0", "--mirroring"]
        _done(plan_and_preprocess.main([str(dataset), "--preset", preset, *at, *encoder]))
        plan = "plan.json" if preset == "default" else f"plan_{preset}.json"
        _shrink(root / "preprocessed" / dataset.name / plan)
        train_options = ["--preset", preset, "--epochs", str(EPOCHS), "--device", "cpu", "--workers", "0"]
        _done(train.main([dataset.name, "0", *at, *train_options]))
        model, out = root / "results" / dataset.name / preset, root / "out" / name
        scans = ["-i", str(dataset / "imagesTs"), "-o", str(out), "-m", str(model), "--probabilities"]
        steps = ["--steps", "2"] if preset == "default" else []
        _done(predict.main([*scans, *steps, "--device", "cpu"]))
    return _numbers(model / "fold_0", out)


def _done(code: int) -> None:
    assert code == 0, "a command of the golden run failed"


def _keep(source: Path, target: Path, values: set[int]) -> None:
    """Copy a label file with all other values set to background."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(source))
    array = sitk.GetArrayFromImage(image)
    kept = sitk.GetImageFromArray(np.where(np.isin(array, list(values)), array, 0).astype(np.uint8))
    kept.CopyInformation(image)
    sitk.WriteImage(kept, str(target))


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """float32 and one thread, whatever the CPU and the environment; no pictures, which take seconds.

    Validation has one way of sampling to choose, or the pace of the machine would decide.
    """
    from textdiffseg.folds.sampling import SamplingChoice
    from textdiffseg.validation import choose

    def mirrored(plan: Plan) -> list[SamplingChoice]:
        return [SamplingChoice(steps=plan.mask_steps, samples=1, mirroring=True)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    float32 = mock.patch("textdiffseg.precision._cpu_has_bfloat16", return_value=False)
    one_way = mock.patch.object(choose, "trials_of", mirrored)
    try:
        with float32, one_way, mock.patch("textdiffseg.training.loop.draw_progress"):
            yield
    finally:
        torch.set_num_threads(threads)


def _shrink(path: Path) -> None:
    """Make a plan small enough for seconds: narrow stages, small patches.

    The learning rate is a hundredth of the usual one: with that, two processors come to numbers that differ by up to
    100% after 20 iterations, with this by less than 3e-4, since Muon makes large steps of rounding errors, too.
    """
    plan = json.loads(path.read_text())
    plan["stages"] = plan["stages"][:4]
    for index, stage in enumerate(plan["stages"]):
        stage["width"], stage["blocks"] = 8 if index < 2 else 16, 1
        stage["attention"] = bool(stage["attention"]) and index > 1
    plan["latent"]["level"] = min(plan["latent"]["level"], 2)
    plan["fusion_level"] = min(plan["fusion_level"], 2)
    plan["patch"], plan["batch"] = [24, 32, 24], 2
    plan["training"] |= {"iterations_per_epoch": ITERATIONS, "learning_rate": 3e-5, "ema": 0.9, "warmup": 0.2}
    if plan["diffusion"] and plan["diffusion"]["share"]:
        plan["diffusion"]["share"] = 0.25  # the last epoch is the sampler's
    path.write_text(json.dumps(plan))


def _numbers(fold: Path, out: Path) -> dict[str, object]:
    log = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    losses = [epoch["losses"] for epoch in log]
    names = sorted({name for one in losses for name in one})
    tensors = load_file(fold / "checkpoint_latest.safetensors")
    weights, ema = (_of(tensors, prefix) for prefix in ("model.", "ema."))
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    return {
        "losses": {name: [_rounded(one[name]) for one in losses if name in one] for name in names},
        "learning_rates": [_rounded(epoch["learning_rate"]) for epoch in log],
        "patch_dice": [_rounded(float(np.mean(list(epoch["dice"].values())))) for epoch in log],
        "weights": _norms(weights),
        "ema": _norms(ema),
        "weights minus ema": _norms({name: one - ema[name] for name, one in weights.items()}),
        "validation_dice": _rounded(summary["mean"]["dice"]),
        "probabilities": {path.name: _sampled(path) for path in sorted((out / "probabilities").iterdir())},
    }


def _of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The floating-point tensors whose name begins with `prefix`, by the rest of their name."""
    chosen = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    return {name: one.double() for name, one in chosen.items() if one.is_floating_point()}


def _norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Euclidean norm of the tensors of each part of the network."""
    squares: dict[str, float] = {}
    for name, one in sorted(tensors.items()):
        part = name.partition(".")[0]
        squares[part] = squares.get(part, 0.0) + float(one.square().sum())
    return {part: _rounded(square**0.5) for part, square in squares.items()}


def _sampled(path: Path) -> list[float]:
    """Probabilities of one class at 24 evenly spread voxels, and their mean over the scan."""
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).ravel()
    places = np.linspace(0, values.size - 1, 26).astype(int)[1:-1]
    return [_rounded(float(value)) for value in (*values[places], values.mean(dtype=np.float64))]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        found = {name: run(name, Path(folder)) for name in RUNS}
    record = {"torch": torch.__version__.partition("+")[0], "runs": found}
    text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(record, indent=1))
    PATH.write_text(text + "\n")
    print(f"Written: {PATH}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
