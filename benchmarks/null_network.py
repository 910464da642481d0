"""A network that takes no time: its plan and its output.

Nothing here imports a package of the project. So a benchmark of an earlier commit can use it too.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def null_plan(patch: tuple[int, int, int], spacing: tuple[float, float, float], labels: int) -> dict[str, Any]:
    """The fields of a plan for CT that have not changed between the commits that are compared."""
    training = {"epochs": 1, "iterations_per_epoch": 1, "learning_rate": 1e-3, "weight_decay": 0, "warmup": 0.1}
    return {
        "preset": "unet",
        "dataset": "Dataset001_CT",
        "device": "gpu",
        "channels": [{"name": "CT", "scheme": "ct", "low": -1000, "high": 1000, "mean": 0, "std": 300}],
        "labels": [{"name": f"label {number}", "value": number} for number in range(1, 1 + labels)],
        "spacing": spacing,
        "median_shape": (275, 512, 512),
        "patch": patch,
        "batch": 2,
        "latent": {"level": 1, "channels": 4},
        "diffusion": None,
        "mirror_axes": (),
        "text": {"encoder": "none", "width": 64},
        "training": training | {"ema": 0.9, "foreground_share": 0.33},
        "memory": {"budget_gb": 8, "training_gb": 1, "prediction_gb": 1, "ram_gb": 1, "disk_gb": 1},
    }


def null_stages(*strides: int) -> list[dict[str, Any]]:
    """Small stages of a network, with these strides along each axis."""
    return [{"stride": (stride, stride, stride), "kernel": (3, 3, 3), "width": 4, "blocks": 1} for stride in strides]


def null_logits(patch: tuple[int, int, int], labels: int, windows: int) -> Tensor:
    """Logits (windows, 1 + labels, D, H, W): background around a ball of each label, the same in every window."""
    generator = np.random.default_rng(0)
    logits = torch.full((windows, 1 + labels, *patch), -8.0)
    logits[:, 0] = 0
    for label in range(1, 1 + labels):
        centre, radius = generator.uniform(0.2, 0.8, 3) * patch, min(patch) / 6
        axes = [np.arange(size) - middle for size, middle in zip(patch, centre, strict=True)]
        d, h, w = np.ix_(*axes)
        logits[:, label, torch.from_numpy(d**2 + h**2 + w**2 < radius**2)] = 4
    return logits
