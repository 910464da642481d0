"""A training step never waits for its device.

The meta device stands in for a GPU: it computes no numbers, so reading one, or asking it for a size that depends on
numbers, raises. What it does not refuse are copies to it that the host waits for; those are watched.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plans.plan import Plan
from textdiffseg.data.batch import Batch, batch_keys
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled
from textdiffseg.training.optimise import train_step

META = torch.device("meta")


class Waits(TorchDispatchMode):
    """Operators that copy from the host while it waits."""

    def __init__(self):
        super().__init__()
        self.found, self.operators = [], 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        sources = [one for one in args if isinstance(one, torch.Tensor) and one.device.type == "cpu" and one.dim()]
        if isinstance(out, torch.Tensor) and out.device == META:
            self.operators += 1
            waits = not (kwargs or {}).get("non_blocking") and not (len(args) > 2 and args[2] is True)
            if sources and waits:
                self.found.append(str(operator))
        return out


class Words:
    """A bank of two labels."""

    def queries(self, samples, texts, context_labels):
        labels = torch.tensor([[1, 0], [2, 1]])
        return Queries(labels, torch.randn(2, 2, 8), torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))


def overlapping(plan):
    """The same plan with a label that holds the other."""
    labels = [{"name": "whole", "value": 2}, {"name": "part", "value": 1}]
    return Plan.model_validate(plan.model_dump() | {"regions": [[1, 2], [1]], "labels": labels})


def with_factors(plan):
    """The same plan with the samples of new plans."""
    return plan.model_copy(
        update={"diffusion": plan.diffusion.model_copy(update={"decoder": "likelihood", "n_factors": 3})}
    )


@pytest.fixture
def constants(monkeypatch):
    """The sizes of tensors that are made on the device from the host's numbers, which the host waits for."""
    made, plain = [], torch.tensor

    def tensor(data, *args, **kwargs):
        out = plain(data, *args, **kwargs)
        if out.device == META and out.dim():
            made.append(tuple(out.shape))
        return out

    monkeypatch.setattr(torch, "tensor", tensor)
    return made


@pytest.mark.parametrize(
    ("preset", "regions", "first"),
    [(preset, False, 0) for preset in ("default", "unet", "paper", "peer-unet")]
    + [(preset, True, 0) for preset in ("default", "unet", "peer-unet")]  # the publication has no regions
    + [("default", regions, 20) for regions in (False, True)],  # the sampler learns
)
@pytest.mark.parametrize("factors", [False, True])
def test_a_step_waits_for_nothing(shapes_plan, preset, regions, first, factors, constants):
    if factors and not first:
        pytest.skip("only the sampler has factors")
    plan = with_factors(shapes_plan(preset)) if factors else shapes_plan(preset)
    plan = overlapping(plan) if regions else plan
    denoiser = 1 if preset == "default" else None
    position = TrainingPosition(seed=0, epochs=2, iterations_per_epoch=20, denoiser_epoch=denoiser, iteration=first)
    state = TrainingState.start(build_model(plan).to(META), position)
    batch = Batch(
        torch.randn(2, 1, 16, 16, 16),
        torch.ones(2, 16, 16, 16, dtype=torch.int16),
        (),
        ("a", "b"),
        (),
        tuple(batch_keys(0, 2, 2)),
    )
    compiled, most = Compiled(active=False, on_gpu=True, report=print), 0
    for iteration in range(2):  # the first step makes the optimisers' moments, the second one changes them
        state.position = state.position.after(iteration=first + iteration)
        with Waits() as waits:
            step = train_step(state, Words(), batch, compiled)
        assert waits.found == constants == []
        most = max(most, waits.operators)
    assert most > 100, "the step ran on the device that was watched"
    with pytest.raises(RuntimeError, match="meta"):
        step.read()
