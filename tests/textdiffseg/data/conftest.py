"""Small stored cases and a plan for them."""

import numpy as np
import pytest

from plans.plan import Plan
from textdiffseg.data.checks import preprocessing_settings
from textdiffseg.data.store import CaseRecord, save_case
from textdiffseg.preprocessing.case import TransformRecord


def tiny_plan(**changes) -> Plan:
    """A plan for one-channel cases with labels 1 and 2."""
    fields = {
        "preset": "default",
        "dataset": "Dataset900_Tiny",
        "device": "cpu",
        "channels": [{"name": "MRI", "scheme": "zscore"}],
        "labels": [{"name": "front", "value": 1}, {"name": "back", "value": 2}],
        "spacing": (1, 1, 1),
        "median_shape": (20, 24, 18),
        "patch": (16, 16, 16),
        "batch": 3,
        "stages": [
            {"stride": (1, 1, 1), "kernel": (3, 3, 3), "width": 8, "blocks": 1},
            {"stride": (2, 2, 2), "kernel": (3, 3, 3), "width": 8, "blocks": 1},
        ],
        "fusion_level": 1,
        "latent": {"level": 1, "channels": 4},
        "diffusion": {"min_log_snr": -3},
        "text": {"encoder": "bundled", "width": 384},
        "training": {
            "epochs": 2,
            "iterations_per_epoch": 2,
            "learning_rate": 1e-3,
            "weight_decay": 0,
            "warmup": 0.1,
            "ema": 0.9,
            "foreground_share": 0.33,
            "augmentation": "strong",
        },
        "mirror_axes": (0, 1, 2),
        "memory": {"budget_gb": 1, "training_gb": 1, "prediction_gb": 1, "ram_gb": 1, "disk_gb": 1},
    }
    return Plan.model_validate(fields | changes)


def store_case(folder, case: str, image: np.ndarray, labels, annotated=(1, 2), absent=()) -> None:
    """Save an image and its label map, or one label map per reference, as a stored case."""
    shape = image.shape[1:]
    affine = ((0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    transform = TransformRecord(
        original_shape=shape,
        affine=affine,
        permutation=(0, 1, 2),
        flips=(),
        canonical_shape=shape,
        crop=tuple((0, size) for size in shape),
        shape=shape,
    )
    present = tuple(int(value) for value in np.unique(labels) if value > 0)
    settings = preprocessing_settings(tiny_plan())
    known = {"present": present, "annotated": annotated, "absent": absent}
    record = CaseRecord(case=case, hash="0", settings=settings, shape=shape, transform=transform, **known)
    save_case(folder, record, image, labels, labels)


@pytest.fixture
def make_plan():
    return tiny_plan


@pytest.fixture
def make_case():
    """`store_case`, for tests that cannot import their neighbours."""
    return store_case


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A preprocessed folder with five cases, and their ids; case_4 has no label 2."""
    folder = tmp_path_factory.mktemp("preprocessed")
    rng = np.random.default_rng(0)
    ids = [f"case_{i}" for i in range(5)]
    for i, case in enumerate(ids):
        shape = (20 + i, 24 - i, 12 + 3 * i)
        labels = np.zeros(shape, np.int16)
        labels[4:9, 5:12, 3:8] = 1
        labels[9:14, 5:12, 3:8] = 2 if i < 4 else 0
        image = rng.normal(size=(1, *shape)) + labels
        store_case(folder, case, image.astype(np.float32), labels)
    return folder, ids
