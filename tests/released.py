"""The files of a release: a small trained model, a stored case and a prediction, which every later release must open.

    python tests/released.py        # once for each release: writes tests/releases/VERSION.zip (half a minute)

The files come from the commands that a user types, on small scans of a bright and a dark cube. Only what a later
release has to read is kept. `tests/test_releases.py` opens it. The file of an earlier release is never written again.
"""

import contextlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import numpy as np

FOLDER = Path(__file__).with_name("releases")
DATASET, SCAN = "Dataset001_Cubes", "cubes_08"
SHAPE, CUBE = (20, 24, 28), 8
CASES, KEPT_CASE = 8, "cubes_00"
KEPT = (  # patterns below the root
    "raw/*/prompts.json",
    "raw/*/imagesTs/*",
    "preprocessed/*/*plan.json",
    "preprocessed/*/splits.json",
    "preprocessed/*/case_texts.safetensors",
    f"preprocessed/*/fingerprints/{KEPT_CASE}.json",
    f"preprocessed/*/cases/{KEPT_CASE}.*",
    "results/*/default/fold_0/*.json*",
    "results/*/default/fold_0/text_*.safetensors",
    "results/*/default/fold_0/checkpoint_best.safetensors",
    "results/*/default/fold_0/validation/summary.json",
    f"out/{SCAN}.*",
)


def write_raw(root: Path) -> Path:
    """The raw folder of `CASES` training scans and one test scan. Each has a bright and a dark cube."""
    import SimpleITK as sitk

    raw = root / "raw" / DATASET
    for part in ("imagesTr", "labelsTr", "imagesTs", "texts"):
        (raw / part).mkdir(parents=True)
    for index in range(CASES + 1):
        rng = np.random.default_rng(index)
        clean, truth = np.full(SHAPE, 100.0), np.zeros(SHAPE, np.uint8)
        for label, brightness, first in ((1, 200.0, 2), (2, 30.0, SHAPE[2] // 2 + 2)):
            corner = (*(int(rng.integers(2, size - CUBE - 1)) for size in SHAPE[:2]), first + int(rng.integers(3)))
            box = tuple(slice(start, start + CUBE) for start in corner)
            clean[box], truth[box] = brightness, label
        scan = np.clip(clean + rng.normal(0, 5, SHAPE), 0, 255).astype(np.uint8)
        part = "Tr" if index < CASES else "Ts"
        sitk.WriteImage(sitk.GetImageFromArray(scan), raw / f"images{part}" / f"cubes_{index:02d}_0000.nii.gz")
        if part == "Tr":
            sitk.WriteImage(sitk.GetImageFromArray(truth), raw / "labelsTr" / f"cubes_{index:02d}.nii.gz")
    (raw / "texts" / f"{KEPT_CASE}.txt").write_text("One cube is bright, the other is dark.\n")
    header = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright cube": 1, "dark cube": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(header))
    names = [f"cubes_{index:02d}" for index in range(CASES)]
    halves = [{"train": names[CASES // 2 :], "val": names[: CASES // 2]}]  # four cases are enough for a calibration
    (raw / "splits_final.json").write_text(json.dumps(halves))
    return raw


def make(root: Path) -> None:
    """Plan, train and predict below `root`."""
    from textdiffseg_cli import plan_and_preprocess, predict, train

    raw, at = write_raw(root), ["--root", str(root)]
    _done(plan_and_preprocess.main([str(raw), *at, "--text-encoder", "bundled", "--memory-gb", "8", "--workers", "0"]))
    _shrink(root / "preprocessed" / DATASET)
    _done(train.main([DATASET, "0", *at, "--epochs", "10", "--device", "cpu", "--workers", "0"]))
    scans = ["-i", str(raw / "imagesTs"), "-o", str(root / "out"), "-d", DATASET]
    _done(predict.main([*scans, *at, "--device", "cpu"]))


def _done(code: int) -> None:
    assert code == 0, "a command failed"


def _shrink(preprocessed: Path) -> None:
    """Make the network small, the training short, and the text space easy to compress."""
    from plans.layout import PreprocessedFolder
    from textdiffseg.text.bank import TextBank

    folder = PreprocessedFolder(preprocessed)
    plan = json.loads(folder.plan("default").read_text())
    plan["stages"] = plan["stages"][:3]
    for stage in plan["stages"]:
        stage["width"], stage["blocks"], stage["attention"] = 4, 1, False
    plan["network"] |= {"least_width": 4}
    plan["latent"]["level"], plan["fusion_level"] = 1, 2
    plan["patch"], plan["batch"], plan["mirror_axes"] = [16, 16, 16], 2, [2]
    plan["training"] |= {"iterations_per_epoch": 25, "learning_rate": 1e-2, "ema": 0.9}
    folder.plan("default").write_text(json.dumps(plan))
    words = folder.words("default", "bundled")
    bank = TextBank.load(words)
    rounded = replace(bank.space, projection=(bank.space.projection * 512).round() / 512)  # 384 x 384 values
    replace(bank, space=rounded).save(words)


def kept(root: Path) -> Iterator[Path]:
    """The files that a later release has to read."""
    for pattern in KEPT:
        found = sorted(root.glob(pattern))
        assert found, pattern
        yield from found


def main() -> None:
    import textdiffseg

    target = FOLDER / f"{textdiffseg.__version__}.zip"
    if target.exists():
        sys.exit(f"{target} exists. Delete it only if this version has not been released.")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        make(Path(folder))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in kept(Path(folder)):
                archive.write(path, path.relative_to(folder))
    print(f"Written: {target}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
