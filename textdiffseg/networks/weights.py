"""Weights on disk: safetensors, read back without unpickling anything."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plans.errors import UserError
from plans.plan import FOLD_PLAN, Plan
from textdiffseg.networks.model import Model, build_model

EMA = "ema."
Content = TypeVar("Content")


def checkpoint_path(fold_folder: Path, which: str) -> Path:
    """`which` is "best" or "latest"."""
    return Path(fold_folder) / f"checkpoint_{which}.safetensors"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint; `UserError` if it is missing or damaged."""
    return _read(path, safetensors.torch.load_file)


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself; `UserError` as for `read_tensors`."""

    def metadata(path: Path) -> dict[str, str]:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}

    return _read(path, metadata)


def _read(path: Path, reader: Callable[[Path], Content]) -> Content:
    if not path.is_file():
        raise UserError(f"{path} does not exist: this fold has no such checkpoint; train it with tds_train.")
    try:
        return reader(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); copy it again or train the fold again.") from None


def load_model(fold_folder: Path, checkpoint: str = "best", device: str = "cpu") -> Model:
    """The trained model of a fold (`plan.json` beside its weights), with the averaged weights, ready to predict."""
    plan = Plan.read(Path(fold_folder) / FOLD_PLAN)
    path = checkpoint_path(fold_folder, checkpoint)
    tensors = read_tensors(path)
    model = build_model(plan)
    try:
        model.load_state_dict(
            {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its plan.json: {reason} Copy the fold again or train it again.") from None
    return model.to(device).eval()
