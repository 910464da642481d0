"""The state of a training run, and its one file: `checkpoint_latest.safetensors` holds everything that exact
resuming needs, `checkpoint_best.safetensors` the averaged weights alone. Nothing is pickled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save as serialise
from torch import Tensor
from torch.nn import Parameter

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.files import write_atomically
from textdiffseg.folds.progress import PROGRESS, TrainingProgress, parse_progress, read_progress
from textdiffseg.folds.weights import EMA, read_metadata, read_tensors
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.progress import Report
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.objectives import Objective, objective_of
from textdiffseg.training.optimisers import optimisers_of

MODEL = "model."
MOMENTS = {"moment.first.": "exp_avg", "moment.second.": "exp_avg_sq"}  # of the optimisers, by prefix in the file


class Pairs(NamedTuple):
    """Averaged weights and the weights that they follow, in the same order: listed once, not at every iteration."""

    ema: list[Tensor]
    weights: list[Tensor]


@dataclass
class TrainingState:
    """Everything that changes while training."""

    model: SegmentationNetwork
    objective: Objective  # of the model
    ema: dict[str, Tensor]  # the averaged weights by name
    averaged: Pairs
    copied: Pairs
    optimisers: tuple[torch.optim.Optimizer, ...]
    progress: TrainingProgress

    @classmethod
    def start(cls, model: SegmentationNetwork, progress: TrainingProgress) -> "TrainingState":
        """A fresh state around an untrained model."""
        training, weights = model.plan.training, model.state_dict()
        ema = {name: value.detach().clone() for name, value in weights.items()}
        part = "denoiser." if training.averaged == "denoiser" else ""
        names = [name for name, value in ema.items() if name.startswith(part) and value.is_floating_point()]
        others = [name for name in ema if name not in set(names)]  # MONAI's networks keep whole numbers, too
        averaged = Pairs([ema[name] for name in names], [weights[name] for name in names])
        copied = Pairs([ema[name] for name in others], [weights[name] for name in others])
        objective = objective_of(Segmenter.of(model, next(model.parameters()).device))
        return cls(model, objective, ema, averaged, copied, optimisers_of(model, training), progress)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """ema <- decay ema + (1 - decay) weights; the decay grows from 0.1 so that the start is soon forgotten."""
        done = self.progress.iteration
        decay = min(decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(self.averaged.ema, self.averaged.weights, 1 - decay)
        if self.copied.ema:
            torch._foreach_copy_(self.copied.ema, self.copied.weights)

    def save(self, fold: FoldFolder) -> None:
        """Write `checkpoint_latest`."""
        tensors = {MODEL + name: value for name, value in self.model.state_dict().items()}
        tensors |= {EMA + name: value for name, value in self.ema.items()}
        for name, parameter, optimiser in self._optimised():
            state = optimiser.state.get(parameter, {})
            tensors |= {moment + name: state[key] for moment, key in MOMENTS.items() if key in state}
        _write(fold.checkpoint("latest"), tensors, self.progress)

    def save_best(self, fold: FoldFolder) -> None:
        """Write `checkpoint_best`."""
        tensors = {EMA + name: value for name, value in self.ema.items()}
        _write(fold.checkpoint("best"), tensors, self.progress)

    def load(self, fold: FoldFolder) -> None:
        """Go back to the state that `save` wrote; `UserError` if the file does not fit the plan."""
        path = fold.checkpoint("latest")
        tensors = read_tensors(path)
        self.progress = parse_progress(path, read_metadata(path))
        device = next(self.model.parameters()).device
        try:
            self.model.load_state_dict(_part(tensors, MODEL))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} does not fit its plan.json ({reason}); use --restart to train anew.") from None
        for name, value in _part(tensors, EMA).items():
            self.ema[name].copy_(value)
        moments = {key: _part(tensors, moment) for moment, key in MOMENTS.items()}
        for name, parameter, optimiser in self._optimised():
            if state := {key: values[name].to(device) for key, values in moments.items() if name in values}:
                optimiser.state[parameter] = state | {
                    "step": torch.tensor(float(self.progress.iteration), device=device)
                }

    def _optimised(self) -> Iterator[tuple[str, Parameter, torch.optim.Optimizer]]:
        """Each parameter, its name and the optimiser that moves it."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], parameter, optimiser


def complete_best(fold: FoldFolder, report: Report) -> None:
    """Bring the `checkpoint_best` of a finished run up to date: it is there, and notes that the run has ended.

    A missing one is made of the averaged weights of `checkpoint_latest`. One from before this was noted stays as it is.
    """
    latest, best = read_progress(fold), read_progress(fold, "best")
    if latest is None:
        return
    if best is None:
        report(f"{fold.checkpoint('best')} is missing: it is made of the weights of checkpoint_latest.")
        tensors = read_tensors(fold.checkpoint("latest"))
        averaged = {name: value for name, value in tensors.items() if name.startswith(EMA)}
        _write(fold.checkpoint("best"), averaged, latest.after(ended=latest.finished))
    elif latest.finished and not best.finished and best.cases is not None:
        _write(fold.checkpoint("best"), read_tensors(fold.checkpoint("best")), best.after(ended=True))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, Tensor], progress: TrainingProgress) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # serialised here, as safetensors' own writer does not say where the disk is full
    write_atomically(path, serialise(plain, metadata={PROGRESS: progress.model_dump_json()}))
