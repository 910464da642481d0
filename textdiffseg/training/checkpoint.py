"""The state of a training run, and its one file: `checkpoint_latest.safetensors` holds everything that exact
resuming needs, `checkpoint_best.safetensors` the averaged weights alone. Nothing is pickled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import Parameter

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.records import Record
from textdiffseg.folds.weights import EMA, read_metadata, read_tensors
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.segmenter import Segmenter
from textdiffseg.tensors import write_tensor_file
from textdiffseg.training.objectives import Objective, objective_of
from textdiffseg.training.optimisers import optimisers_of

MODEL = "model."
MOMENTS = {"moment.first.": "exp_avg", "moment.second.": "exp_avg_sq"}  # of the optimisers, by prefix in the file


class TrainingProgress(Record):
    """Where a run stands. All randomness is a function of (seed, iteration) or (seed, epoch, index), so no
    generator's state is needed to go on exactly."""

    version: Literal[1] = 1
    seed: int
    epochs: int = Field(gt=0)
    iterations_per_epoch: int = Field(gt=0)
    iteration: int = Field(0, ge=0)  # iterations done
    sums: dict[str, float] = Field(default_factory=dict)  # losses summed over the running epoch
    best: float = -1.0  # best mean validation Dice so far
    seconds: float = 0.0  # spent in training so far
    limit_seconds: float | None = None  # that the whole run may take

    @property
    def epoch(self) -> int:
        """The running epoch, 0-based."""
        return self.iteration // self.iterations_per_epoch

    @property
    def total(self) -> int:
        """Iterations of the whole run."""
        return self.epochs * self.iterations_per_epoch

    @property
    def finished(self) -> bool:
        """Whether every iteration is done."""
        return self.iteration >= self.total

    def in_time(self) -> "TrainingProgress":
        """At the end of an epoch: with as many epochs as fill `limit_seconds` at the pace of those done so far.

        A machine that others use, too, may become slower or faster; the learning rate follows the new length. The
        last epoch, which takes the rate down to 0, is never left out, and none is added to it.
        """
        if self.limit_seconds is None or self.epochs - self.epoch <= 1:
            return self
        epochs = round(self.limit_seconds * self.epoch / self.seconds)
        return self.after(epochs=max(self.epoch + 1, epochs))

    def after(self, **changes: object) -> "TrainingProgress":
        """The same record with some fields changed."""
        return self.model_copy(update=changes)


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
        self.progress = _progress(path)
        try:
            self._load(tensors)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} does not fit its plan.json ({reason}); use --restart to train anew.") from None

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Raises `RuntimeError` or `KeyError` where names or shapes are not those of the model."""
        self.model.load_state_dict(_part(tensors, MODEL))
        averaged = _part(tensors, EMA)
        for name, value in self.ema.items():
            value.copy_(averaged[name])
        moments = {key: _part(tensors, moment) for moment, key in MOMENTS.items()}
        for name, parameter, optimiser in self._optimised():
            state = {key: values[name].to(parameter.device) for key, values in moments.items() if name in values}
            if any(value.shape != parameter.shape for value in state.values()):
                raise RuntimeError(f"the optimiser's averages of {name} have another shape than the weight")
            if state:
                step = torch.tensor(float(self.progress.iteration), device=parameter.device)
                optimiser.state[parameter] = state | {"step": step}

    def _optimised(self) -> Iterator[tuple[str, Parameter, torch.optim.Optimizer]]:
        """Each parameter, its name and the optimiser that moves it."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], parameter, optimiser


def read_progress(fold: FoldFolder) -> TrainingProgress | None:
    """Where the run of a fold stands; None if it has no checkpoint."""
    path = fold.checkpoint("latest")
    return _progress(path) if path.exists() else None


def _progress(path: Path) -> TrainingProgress:
    return TrainingProgress.parse_json(read_metadata(path).get("progress", "null"), f"{path}, metadata")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, Tensor], progress: TrainingProgress) -> None:
    write_tensor_file(path, tensors, {"progress": progress.model_dump_json()})
