"""A small plan for tests of training: 16 x 16 x 16 voxels, two labels."""

import pytest

from plans import paper
from plans.plan import (
    ChannelPlan,
    DiffusionPlan,
    LabelPlan,
    LatentPlan,
    MemoryPlan,
    Plan,
    Stage,
    TextPlan,
    TrainingPlan,
)

NAMES = ("ball", "box")


@pytest.fixture(scope="session")
def shapes_plan():
    """A function that makes the plan of a preset."""
    return make_plan


def diffusion_of(preset):
    if preset in paper.VARIANTS:
        return paper.DIFFUSION
    return DiffusionPlan() if preset == "default" else None


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
        latent=LatentPlan(level=1, channels=1 if preset in paper.VARIANTS else 4),
        diffusion=diffusion_of(preset),
        paper=paper.VARIANTS.get(preset),
        peer=paper.PEERS.get(preset),
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
