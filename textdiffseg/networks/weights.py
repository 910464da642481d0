"""Weights on disk: safetensors, read back without unpickling anything."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plans.errors import UserError
from plans.plan import Plan
from textdiffseg.networks.model import TextDiffSeg, build_model

EMA = "ema."


def checkpoint_path(fold_folder: Path, which: str) -> Path:
    """`which` is "best" or "latest"."""
    return Path(fold_folder) / f"checkpoint_{which}.safetensors"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a checkpoint, and its metadata; `UserError` if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: this fold has no such checkpoint; train it with tds_train.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); copy it again or train the fold again.") from None


def load_model(fold_folder: Path, checkpoint: str = "best", device: str = "cpu") -> TextDiffSeg:
    """The trained model of a fold (`plan.json` beside its weights), with the averaged weights, ready to predict."""
    plan = Plan.read(Path(fold_folder) / "plan.json")
    path = checkpoint_path(fold_folder, checkpoint)
    tensors, _ = read_tensors(path)
    model = build_model(plan)
    try:
        model.load_state_dict(
            {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its plan.json: {reason} Copy the fold again or train it again.") from None
    return model.to(device).eval()
