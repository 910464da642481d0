"""Weights on disk, as safetensors: hashes are checked, and nothing is unpickled."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.files import hash_once
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.networks.model import SegmentationNetwork, build_model
from textdiffseg.tensors import DamagedError, read_tensor_file, read_tensor_metadata

EMA = "ema."
Content = TypeVar("Content")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint. Raises `UserError` if it is missing or damaged."""
    return _read(path, read_tensor_file).tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint. Raises `UserError` if it is missing or damaged."""
    return _read(path, read_tensor_metadata)


def hash_weights(fold: FoldFolder, checkpoint: str) -> str | None:
    """The hash of a checkpoint's file; None if it does not exist."""
    path = fold.checkpoint(checkpoint)
    return hash_once(path) if path.is_file() else None


def has_sampler(fold: FoldFolder) -> bool:
    """Whether the best weights of a fold include a trained sampler. Only one number is read."""
    plan, name = plan_of_fold(fold), f"{EMA}spread"
    if plan.diffusion is None:  # another kind of network, which has no second stage
        return plan.sample_steps is not None
    return bool(_read(fold.checkpoint("best"), partial(read_tensor_file, names=(name,))).tensors[name] > 0)


def _read(path: Path, reader: Callable[[Path], Content]) -> Content:
    if not path.is_file():
        raise UserError(f"{path} does not exist: this fold has no such checkpoint. Train the fold with tds_train.")
    try:
        return reader(path)
    except DamagedError as error:
        raise UserError(f"{path} is damaged ({error}). {_way_out(path)}") from None


def _way_out(path: Path) -> str:
    """What to do about a damaged checkpoint, so that as little as possible of its fold is lost."""
    fold = FoldFolder(path.parent)
    best, latest = fold.checkpoint("best"), fold.checkpoint("latest")
    if path == best and latest.is_file():
        return f"Copy it again, or delete it and run tds_train for this fold: it is then made of {latest.name}."
    anew = "train the fold again with tds_train --restart"
    if path == latest and best.is_file():
        return f"Copy it again; or delete it, and {best.name} alone still predicts; or {anew}."
    return f"Copy it again, or {anew}."


def load_network(fold: FoldFolder, checkpoint: str = "best", device: str = "cpu") -> SegmentationNetwork:
    """The trained network of a fold, with the averaged weights, ready to predict."""
    path = fold.checkpoint(checkpoint)
    tensors = read_tensors(path)
    network = build_model(plan_of_fold(fold))
    averaged = {name.removeprefix(EMA): value for name, value in tensors.items() if name.startswith(EMA)}
    try:
        network.load_state_dict(averaged)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its plan.json: {reason} Copy the fold again or train it again.") from None
    return network.to(device).eval()
