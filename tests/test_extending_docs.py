"""docs/extending.md does what it says: its edits fit the source, and the presets that they add train."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PRESETS = ("unet-adamw", "unet-tversky", "peer-dilated")
NEW_FILE = re.compile(r"new file `([\w/]+\.py)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# One training step of each preset, on random numbers.
STEP = """
import sys
import torch
from plans.planning.budget import cpu_budget
from plans.fingerprint import CaseFingerprint, Fingerprint, LabelFingerprint
from plans.plan import LabelPlan, TextPlan
from plans.planning.planner import make_plan
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.objectives import objective_of

edges = 16, 16, 16
label = LabelFingerprint(label=1, voxels=100, volume_mm3=100, thickness_mm=9, extent_mm=(9, 9, 9))
case = {"shape": edges, "cropped_shape": edges, "spacing": (1, 1, 1), "intensities": ((1, 2, 3, 4),)}
cases = [CaseFingerprint(case=name, content_hash=name, labels=(label,), **case) for name in "abcde"]
torch.manual_seed(0)
image, targets = torch.randn(2, 1, *edges), torch.randint(-1, 2, (2, *edges))
queries = Queries(torch.ones(2, 1).long(), torch.ones(2, 1, 8), torch.ones(2, 1, 8), torch.ones(2, 1).bool())
for preset in ("unet", *sys.argv[1:]):
    fingerprint = Fingerprint(dataset="D", cases=cases)
    text = TextPlan(encoder="bundled", width=8)
    labels = [LabelPlan(name="a", value=1)]
    plan = make_plan("D", ["MRI"], labels, fingerprint, budget=cpu_budget(4), preset=preset, text=text)
    plan = plan.model_copy(update={"patch": edges})
    torch.manual_seed(0)
    network = build_model(plan)
    total = objective_of(network).losses(image, targets, queries, None).total
    total.backward()
    learning = sum(weight.grad is not None for weight in network.parameters())
    print(preset, plan.training.optimiser, type(network).__name__, total.item(), learning)
"""

# All steps of a user, with a short training.
WHOLE = """
import sys
import textdiffseg as tds
from textdiffseg.files import write_record

for preset in sys.argv[1:]:
    planned = tds.plan("raw/Dataset001_Abdomen", preset=preset, workers=0)
    training = planned.plan.training.model_copy(update={"iterations_per_epoch": 3})
    write_record(planned.folder.plan(preset), planned.plan.model_copy(update={"training": training}))
    tds.train(planned, fold=0, preset=preset, options=tds.TrainingOptions(epochs=1, workers=0))
    model = tds.load(f"results/Dataset001_Abdomen/{preset}")
    print(preset, model.segment("raw/Dataset001_Abdomen/imagesTr/tiny_00_0000.nii.gz").labels.shape)
"""


def edit(folder: Path, diff: str) -> None:
    """Apply a diff without line numbers. Its place must occur once."""
    head, *lines = diff.splitlines(keepends=True)
    path = folder / head.removeprefix("+++ ").strip()
    before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
    text = path.read_text(encoding="utf-8")
    assert before, f"{path.name}: no line shows the place"
    assert text.count(before) == 1, f"{path.name}: the place is not unique or not there: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory, repository) -> Path:
    """A copy of the source with the edits of the page."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("plans", "textdiffseg"):
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.js"))
    page = (repository / "docs" / "extending.md").read_text(encoding="utf-8")
    for block in BLOCK.finditer(page):
        if block[1] == "diff":
            edit(folder, block[2])
        elif block[1] == "python":  # a new file, which is named before it
            path = folder / NEW_FILE.findall(page[: block.start()])[-1]
            assert not path.exists()
            path.write_text(block[2], encoding="utf-8")
    return folder


def run(copy: Path, here: Path, script: str, *arguments: str) -> list[list[str]]:
    """The words of each line that a script prints. It imports the copy."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_the_examples_are_planned_built_and_trained(copy, tmp_path):
    usual, adamw, tversky, dilated = run(copy, tmp_path, STEP, *PRESETS)
    assert usual[1:3] == ["muon", "TextDiffSeg"]
    assert adamw[1:] == ["adamw", *usual[2:]]
    assert tversky[1:3] == usual[1:3]
    assert 0 < float(tversky[3]) - float(usual[3]) < 1, "the loss of preset unet, and one term more"
    assert dilated[1:3] == ["muon", "Peer"]
    assert int(dilated[4]) == 14, "every weight of the network has a gradient"


@pytest.mark.slow
def test_the_examples_train_and_segment_by_the_usual_commands(copy, tmp_path, write_raw):
    write_raw(tmp_path, "Dataset001_Abdomen")
    assert run(copy, tmp_path, WHOLE, *PRESETS) == [[preset, "(20,", "24,", "28)"] for preset in PRESETS]
