"""The benchmarks are scripts. Tests import them with benchmarks/ on the path, as `python benchmarks/NAME.py` does."""

import importlib

import numpy as np
import pytest
import torch

from plans.plan import Plan
from plans.raw.prompts import Prompts
from textdiffseg.networks.model import TextDiffSeg, build_model
from textdiffseg.text.bank import TextBank, build_bank
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.training import loop
from textdiffseg_cli import plan_and_preprocess


@pytest.fixture
def benchmark(repository, monkeypatch):
    """A function that imports benchmarks/NAME.py."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def plan_in_this_process(monkeypatch):
    """Benchmarks plan without worker processes: each would import torch and load the text encoder for seconds."""
    plain = plan_and_preprocess.main
    monkeypatch.setattr(plan_and_preprocess, "main", lambda arguments: plain([*arguments, "--workers", "0"]))


@pytest.fixture(autouse=True)
def short_epochs(few_patches, monkeypatch):
    """No pictures of the progress either."""
    monkeypatch.setattr(loop, "draw_progress", lambda *_: None)


class FakeEncoder:
    """Random vectors that are a function of the phrase. They replace the slow encoder."""

    name = "bundled"
    width = 16

    def encode(self, phrases, longest=None):
        drawn = [np.random.default_rng(list(phrase.encode())).normal(size=(4, self.width)) for phrase in phrases]
        return [PhraseVectors(draw[:3], draw[3]) for draw in torch.from_numpy(np.array(drawn, np.float32))]


@pytest.fixture(scope="session")
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="session")
def bank(encoder) -> TextBank:
    """A text bank of two labels."""
    prompts = Prompts(scan="MRI of a test", labels={"front": ("front", "tip"), "back": ("back",)})
    return build_bank(prompts, ("front", "back"), encoder)


@pytest.fixture(scope="session")
def model() -> TextDiffSeg:
    """A tiny model. Its weights are changed, so that noise, text and image all have an effect."""
    fine = {"stride": (1, 1, 1), "kernel": (3, 3, 3), "width": 8, "blocks": 1}
    coarse = fine | {"stride": (2, 2, 2)}
    training = {"epochs": 1, "iterations_per_epoch": 1, "learning_rate": 1e-3, "weight_decay": 0, "warmup": 0.1}
    plan = Plan.model_validate(
        {
            "preset": "default",
            "dataset": "Dataset900_Tiny",
            "device": "cpu",
            "channels": [{"name": "MRI", "scheme": "zscore"}],
            "labels": [{"name": "front", "value": 7}, {"name": "back", "value": 3}],
            "spacing": (1, 1, 1),
            "median_shape": (16, 16, 16),
            "patch": (16, 16, 16),
            "batch": 2,
            "stages": [fine, coarse, coarse | {"attention": True}],
            "fusion_level": 2,
            "latent": {"level": 1, "channels": 4},
            "diffusion": {"min_log_snr": -3, "steps": 3},
            "text": {"encoder": "bundled", "width": FakeEncoder.width},
            "training": training | {"ema": 0.9, "foreground_share": 0.33, "augmentation": "strong"},
            "mirror_axes": (0, 2),
            "memory": {"budget_gb": 1, "training_gb": 1, "prediction_gb": 1, "ram_gb": 1, "disk_gb": 1},
        }
    )
    torch.manual_seed(0)
    model = build_model(plan).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        model.spread.fill_(1.5)
    return model
