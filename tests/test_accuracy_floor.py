"""A short training finds the cubes of scans that it has not seen; a broken trainer does not.

The commands run as a user types them, on one thread in float32. Measured on the validation patches, last epoch of the
masks (the broken trainers were measured before 0.2, with the same floor):

| trainer | Dice |
| --- | --- |
| healthy | .983 |
| every second weight is left as it was | .774 |
| labels shifted by 3 voxels | .567 |
| learning rate 30 times too high, and constant | .142 |
| learning rate 30 times too low, and constant | .138 |
| matrices are left as they were | .097 |
| averaged weights never follow | .046 |
| labels flipped along one axis, image not | .000 |
| wrong sign of the Dice loss | .000 |

The sampler learns after the masks. A healthy one has a loss of the residual of .46, and one whose true latents are 0
has 3.2. An untrained denoiser, which returns 0, has about 1. On the whole validation cases, which the test asks about,
the healthy masks have .986.
"""

import json
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from textdiffseg_cli import plan_and_preprocess, train

FLOOR, LATENT_FLOOR, MAX_RESIDUAL = 0.9, 0.95, 0.8
CASES, SHAPE, EDGE = 10, (20, 24, 28), 7
WIDTHS = (8, 16, 16)  # of the stages: as narrow as learns
TRAINING = {"iterations_per_epoch": 20, "ema": 0.9, "learning_rate": 3e-3}
EPOCHS = 4


@pytest.fixture(autouse=True)
def one_thread_in_float32(monkeypatch):
    """The same digits on every machine, nearly: bfloat16 and threads change the last ones."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    yield
    torch.set_num_threads(threads)


def draw_case(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy scan and its labels: a bright cube, a dark one, and as decoys two plates of each intensity.

    The scan has eight equal blocks; each shape lies in its own block. A cube and its decoys have the same intensity.
    """
    rng = np.random.default_rng(index)
    clean, labels = np.full(SHAPE, 100.0), np.zeros(SHAPE, np.uint8)
    cells = rng.permutation(list(product((0, 1), repeat=3)))
    for number, cell in enumerate(cells[:6]):
        size = np.full(3, EDGE)
        if number > 1:
            size[rng.integers(3)] = 2
        room = np.array(SHAPE) // 2
        start = cell * room + rng.integers(0, room - size, endpoint=True)
        box = tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))
        clean[box] = (200, 30)[number % 2]
        if number < 2:
            labels[box] = 1 + number
    return (clean + rng.normal(0, 10, SHAPE)).astype(np.float32), labels


def write_raw_cubes(root):
    """The cases as a raw data set."""
    folder = root / "raw" / "Dataset901_Cubes"
    for index in range(CASES):
        for part, array, end in zip(("imagesTr", "labelsTr"), draw_case(index), ("_0000", ""), strict=True):
            (folder / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / part / f"cubes_{index:02d}{end}.nii.gz"))
    labels = {"background": 0, "bright cube": 1, "dark cube": 2}
    header = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(header))
    return folder.name


def test_a_short_training_finds_most_of_what_it_has_not_seen(tmp_path):
    name, root = write_raw_cubes(tmp_path), ["--root", str(tmp_path)]
    assert plan_and_preprocess.main(["901", *root, "--workers", "0", "--memory-gb", "2"]) == 0
    path = tmp_path / "preprocessed" / name / "plan.json"
    plan = json.loads(path.read_text())
    for stage, width in zip(plan["stages"], WIDTHS, strict=True):
        stage["width"] = width
    plan["training"] |= TRAINING
    path.write_text(json.dumps(plan))
    assert train.main(["901", "0", *root, "--device", "cpu", "--workers", "0", "--epochs", str(EPOCHS)]) == 0
    fold = tmp_path / "results" / name / "default" / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    log = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    assert len(summary["cases"]) == CASES // 5
    assert summary["mean"]["dice"] > FLOOR
    assert np.mean(list(log[-1]["latent_dice"].values())) > LATENT_FLOOR
    assert log[-1]["losses"]["residual"] < MAX_RESIDUAL
