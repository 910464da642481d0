"""The state of a training run and its checkpoints. Nothing is pickled.

`checkpoint_latest.safetensors` holds the whole state, so that a run resumes exactly. `checkpoint_best.safetensors`
holds only the averaged weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.folds.position import POSITION_KEY, TrainingPosition, parse_position, read_position
from textdiffseg.folds.weights import EMA, read_metadata, read_tensors
from textdiffseg.networks.model import SegmentationNetwork, TextDiffSeg
from textdiffseg.progress import Report
from textdiffseg.tensors import write_tensor_file
from textdiffseg.training.objectives import Objective, objective_of
from textdiffseg.training.optimisers import optimisers_of

MODEL = "model."
SAMPLER = "denoiser.", "sample_decoder.", "common_factors."  # they learn in the second stage of preset `default`
MOMENTS = {"moment.first.": "exp_avg", "moment.second.": "exp_avg_sq"}  # of the optimisers, by prefix in the file
STEP = "moment.step."  # the prefix of AdamW's counts of steps; a weight without a gradient does not step


class Pairs(NamedTuple):
    """Averaged weights and the current weights, in the same order.

    They are listed once, which is faster than at every iteration.
    """

    ema: list[Tensor]
    weights: list[Tensor]


@dataclass
class TrainingState:
    """Everything that changes during training."""

    model: SegmentationNetwork
    objective: Objective  # of the model
    ema: dict[str, Tensor]  # the averaged weights by name
    averaged: Pairs
    copied: Pairs
    optimisers: tuple[torch.optim.Optimizer, ...]
    position: TrainingPosition

    @classmethod
    def start(cls, model: SegmentationNetwork, position: TrainingPosition) -> "TrainingState":
        """The initial state for the weights that learn at `position`: the sampler's alone, or all others."""
        training = model.plan.training
        weights = model.state_dict()
        ema = {name: value.detach().clone() for name, value in weights.items()}
        if model.plan.diffusion:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(SAMPLER) == position.trains_sampler)
        prefixes = SAMPLER if training.averaged == "denoiser" or position.trains_sampler else ("",)
        names = [name for name, value in ema.items() if name.startswith(prefixes) and value.is_floating_point()]
        others = [name for name in ema if name not in set(names)]  # MONAI's networks hold whole numbers, too
        averaged = Pairs([ema[name] for name in names], [weights[name] for name in names])
        copied = Pairs([ema[name] for name in others], [weights[name] for name in others])
        objective = objective_of(model, position.trains_sampler)
        return cls(model, objective, ema, averaged, copied, optimisers_of(model, training), position)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Update the averaged weights: ema <- decay ema + (1 - decay) weights.

        The decay grows from 0.1, so that the initial weights soon have little influence.
        """
        done, _ = self.position.schedule
        decay = min(decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(self.averaged.ema, self.averaged.weights, 1 - decay)
        if self.copied.ema:
            torch._foreach_copy_(self.copied.ema, self.copied.weights)

    def begin_sampler(self, fold: FoldFolder) -> None:
        """Change to the training of the sampler, on the frozen weights of `checkpoint_best`.

        If a run is trained longer, the denoiser continues from its weights. A learned decoder of samples starts as a
        copy of the mask decoder's finest stages; only its first block continues. The state is changed in place: a
        second one would keep the averages and moments of all other weights in memory.
        """
        assert isinstance(self.model, TextDiffSeg), "expected a model with a sampler"
        best = _part(read_tensors(fold.checkpoint("best")), EMA)
        masks = {name: value for name, value in best.items() if not name.startswith(SAMPLER)}
        self.model.load_state_dict(self.model.state_dict() | masks)
        if self.model.sample_decoder is not None:
            self.model.sample_decoder.copy_finest(self.model.label_decoder)
        start = TrainingState.start(self.model, self.position)
        self.objective = start.objective
        self.ema = start.ema
        self.averaged = start.averaged
        self.copied = start.copied
        self.optimisers = start.optimisers

    def set_spread(self, spread: float) -> None:
        """Store the spread of samples, in the current and in the averaged weights. Nothing in presets without one."""
        if "spread" in self.ema:
            self.model.get_buffer("spread").fill_(spread)
            self.ema["spread"].fill_(spread)

    def save(self, fold: FoldFolder) -> None:
        """Write `checkpoint_latest`."""
        tensors = {MODEL + name: value for name, value in self.model.state_dict().items()}
        tensors |= {EMA + name: value for name, value in self.ema.items()}
        for name, parameter, optimiser in self._optimised():
            state = optimiser.state.get(parameter, {})
            kept = MOMENTS | {STEP: "step"}
            tensors |= {prefix + name: state[key] for prefix, key in kept.items() if key in state}
        _write(fold.checkpoint("latest"), tensors, self.position)

    def save_best(self, fold: FoldFolder) -> None:
        """Write `checkpoint_best`."""
        tensors = {EMA + name: value for name, value in self.ema.items()}
        _write(fold.checkpoint("best"), tensors, self.position)

    def load(self, fold: FoldFolder) -> None:
        """Restore the state that `save` wrote. `UserError` if the file does not fit the plan."""
        path = fold.checkpoint("latest")
        tensors = read_tensors(path)
        self.position = parse_position(path, read_metadata(path))
        try:
            self._load(tensors)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"{path} does not fit its plan.json ({reason}); use --restart to train from the start."
            ) from None

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Raises `RuntimeError` or `KeyError` if names or shapes differ from the model's."""
        self.model.load_state_dict(_part(tensors, MODEL))
        averaged = _part(tensors, EMA)
        for name, value in self.ema.items():
            value.copy_(averaged[name])
        moments = {key: _part(tensors, moment) for moment, key in MOMENTS.items()}
        steps = _part(tensors, STEP)
        for name, parameter, optimiser in self._optimised():
            state = {key: values[name].to(parameter.device) for key, values in moments.items() if name in values}
            if any(value.shape != parameter.shape for value in state.values()):
                raise RuntimeError(f"the optimiser's averages of {name} have another shape than the weight")
            if state and isinstance(optimiser, torch.optim.AdamW):
                step = steps.get(name, torch.tensor(float(self.position.iteration)))  # older files have none
                state["step"] = step.to(parameter.device)
            if state:
                optimiser.state[parameter] = state

    def _optimised(self) -> Iterator[tuple[str, Parameter, torch.optim.Optimizer]]:
        """(name, parameter, its optimiser) for each parameter."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], parameter, optimiser


def complete_best(fold: FoldFolder, report: Report) -> None:
    """Write or update the `checkpoint_best` of a finished run, so that it records the end of the run.

    If it is missing, it gets the averaged weights of `checkpoint_latest`. If it has no hash of its cases, it comes
    from an older version and does not change.
    """
    latest, best = read_position(fold), read_position(fold, "best")
    if latest is None:
        return
    if best is None:
        report(f"{fold.checkpoint('best')} is missing: it is written from the weights of checkpoint_latest.")
        tensors = read_tensors(fold.checkpoint("latest"))
        averaged = {name: value for name, value in tensors.items() if name.startswith(EMA)}
        _write(fold.checkpoint("best"), averaged, latest.after(ended=latest.finished))
    elif latest.finished and not best.finished and best.cases is not None:
        _write(fold.checkpoint("best"), read_tensors(fold.checkpoint("best")), best.after(ended=True))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, Tensor], position: TrainingPosition) -> None:
    write_tensor_file(path, tensors, {POSITION_KEY: position.model_dump_json()})
