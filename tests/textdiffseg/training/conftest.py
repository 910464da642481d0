"""A small plan for tests of training, 16 x 16 x 16 voxels, two labels; and three stored cases to train on."""

import signal

import numpy as np
import pytest
import torch

from plans.layout import PreprocessedFolder
from plans.network_plan import DiffusionPlan, LatentPlan, Stage
from plans.plan import ChannelPlan, LabelPlan, MemoryPlan, Plan, TextPlan, TrainingPlan
from plans.planning.recipes import RECIPES
from plans.raw.prompts import Prompts
from textdiffseg.data.store import CaseRecord, save_case
from textdiffseg.files import write_record
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.text.bank import build_bank
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.training import loop

NAMES = ("ball", "box")


@pytest.fixture(scope="module", autouse=True)
def undrawn(few_patches):
    """No pictures of the progress: each takes as long as an epoch. `test_end_to_end.py` draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_progress", lambda path, *_: path.write_bytes(b"drawn"))
        yield


@pytest.fixture(scope="session")
def shapes_plan():
    """A function that makes the plan of a preset."""
    return make_plan


@pytest.fixture(scope="session")
def store_shapes():
    """A function that stores the cases a, b and c of a plan in a folder, and returns the folder."""
    return store_cases


def make_plan(preset):
    return Plan(
        preset=preset,
        dataset="Dataset001_Shapes",
        device="cpu",
        channels=(ChannelPlan(name="MRI", scheme="zscore"),),
        labels=tuple(LabelPlan(name=name, value=i) for i, name in enumerate(NAMES, start=1)),
        spacing=(1.0, 1.0, 1.0),
        median_shape=(16, 16, 16),
        patch=(16, 16, 16),
        batch=2,
        stages=tuple(
            Stage(stride=(s, s, s), kernel=(3, 3, 3), width=8, blocks=1, attention=s > 1 and i > 1)
            for i, s in enumerate((1, 2, 2))
        ),
        fusion_level=1,
        latent=LatentPlan(level=1, channels=1 if RECIPES[preset].paper else 4),
        diffusion=DiffusionPlan(min_log_snr=-6, steps=3) if preset == "default" else None,
        paper=RECIPES[preset].paper,
        peer=RECIPES[preset].peer,
        text=TextPlan(encoder="hash", width=8),
        training=TrainingPlan(
            epochs=3,
            iterations_per_epoch=4,
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup=0.1,
            ema=0.9,
            foreground_share=0.5,
        ),
        mirror_axes=(0, 1, 2),
        memory=MemoryPlan(budget_gb=4, training_gb=1, prediction_gb=1, ram_gb=1, disk_gb=1),
    )


class WordHash:
    """A text encoder for tests: vectors are a function of the letters."""

    name, width = "hash", 8

    def encode(self, phrases, longest=None):
        vectors = []
        for phrase in phrases:
            generator = torch.Generator().manual_seed(sum(map(ord, phrase)))
            tokens = torch.randn(len(phrase.split()), self.width, generator=generator)
            vectors.append(PhraseVectors(tokens, tokens.mean(0)))
        return vectors


def store_cases(folder, plan):
    write_record(folder / "plan.json", plan)
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        labels = np.zeros((18, 18, 18), np.int16)
        corner = rng.integers(1, 5, 3)
        labels[tuple(slice(c, c + 5) for c in corner)] = 1
        labels[tuple(slice(c + 7, c + 11) for c in corner)] = 2
        image = (labels + 0.2 * rng.standard_normal(labels.shape)).astype(np.float32)[None]
        image, transform = preprocess_image(Volume(image, Geometry(labels.shape, np.eye(4))), plan)
        record = CaseRecord(
            case=case, hash="", settings={}, shape=labels.shape, present=(1, 2), annotated=(1, 2), transform=transform
        )
        save_case(folder, record, image, labels, labels)
    prompts = Prompts(scan="a scan", labels={"ball": ("ball", "a ball"), "box": ("box", "the box")})
    build_bank(prompts, NAMES, WordHash()).save(PreprocessedFolder(folder).words(plan.preset))
    return folder


@pytest.fixture(scope="session")
def hashed_bank():
    """A function that makes the bank of some labels. Each has its name as a phrasing, and `more`."""

    def make(*names, **more):
        phrasings = {name: (name, *more.get(name, ())) for name in names}
        return build_bank(Prompts(scan="a scan", labels=phrasings), names, WordHash())

    return make


@pytest.fixture
def interrupt_after():
    """A function that behaves as if Ctrl-C came during the given iteration, until its `monkeypatch` is undone."""

    def interrupt(monkeypatch, iterations):
        plain, count = loop.train_step, 0

        def step(*args):
            nonlocal count
            count += 1
            if count == iterations:
                signal.raise_signal(signal.SIGINT)
            return plain(*args)

        monkeypatch.setattr(loop, "train_step", step)

    return interrupt
