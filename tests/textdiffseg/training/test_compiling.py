"""Compiled parts give what eager ones give, are compiled once, and are given up where they cannot be had.

Inductor takes minutes on a CPU; everything before it (tracing, guards, the graph of the gradient) is what runs here.
"""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from textdiffseg import precision
from textdiffseg.data.batch import Batch, batch_keys
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training import compiling
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.compiling import Compiled, compile_modules
from textdiffseg.training.optimise import train_step

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def untouched_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def test_the_compiler_knows_its_options():
    known = torch._inductor.list_options()
    assert {*compiling.SETTINGS["options"], *compiling.GRAPHS["options"]} <= {*known}


class Words:
    """A bank of two labels. Batches query one or both of them, with more or fewer tokens."""

    def __init__(self):
        self.batches = 0

    def queries(self, samples, texts, context_labels):
        self.batches += 1
        slots, length = 1 + self.batches % 2, 3 + self.batches % 4
        generator = torch.Generator().manual_seed(self.batches)
        vectors, tokens = (torch.randn(2, count, 8, generator=generator) for count in (slots, length))
        labels = torch.tensor([[1, 2], [2, 1]])[:, :slots]
        return Queries(labels, vectors, tokens, torch.ones(2, length, dtype=torch.bool))


def start(plan):
    """A fresh state around untrained weights."""
    torch.manual_seed(0)
    return TrainingState.start(build_model(plan), TrainingPosition(seed=0, epochs=1, iterations_per_epoch=20))


def train(state, compiled, iterations):
    """The losses of each step on random data, and the graphs compiled until then."""
    words, losses, graphs = Words(), [], []
    for iteration in range(iterations):
        state.position = state.position.after(iteration=iteration)
        generator = torch.Generator().manual_seed(iteration)
        image = torch.randn(2, 1, 16, 16, 16, generator=generator)
        labels = torch.randint(0, 3, (2, 16, 16, 16), generator=generator).short()
        batch = Batch(image, labels, (), ("a", "b"), (), tuple(batch_keys(0, 2, 2)))
        losses.append(train_step(state, words, batch, compiled).read())
        graphs.append(counters["stats"]["unique_graphs"])
    return losses, graphs


@pytest.mark.parametrize("preset", ["default", "unet"])
def test_compiled_modules_equal_eager_ones_and_are_compiled_once(shapes_plan, monkeypatch, preset):
    """In float32: only GPUs compile, and the mode for thin grids in bfloat16 on CPUs breaks graphs."""
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(compiling, "SETTINGS", {"dynamic": False, "backend": "aot_eager"})
    eager, ours, messages = start(shapes_plan(preset)), start(shapes_plan(preset)), []
    compiled = compile_modules(ours.model.compilable_modules, CPU, True, messages.append)
    expected, _ = train(eager, Compiled(active=False, on_gpu=True, report=messages.append), 6)
    found, graphs = train(ours, compiled, 6)
    assert messages == []
    assert compiled.active
    assert 0 < graphs[0] <= 8, "whole parts, with and without gradients, not block by block"
    assert graphs[-1] == graphs[0], "nothing is compiled again, whatever a batch queries"
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=0.01)
    twin = copy.deepcopy(ours.model)
    assert list(twin.state_dict()) == list(eager.model.state_dict())
    twin.eval().encode_image(torch.randn(3, 1, 16, 16, 16))  # a copy for validation, whatever its shapes
    assert graphs[-1] == counters["stats"]["unique_graphs"]


def test_without_a_working_compiler_the_losses_are_the_same(shapes_plan, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no compiler found\nand much more")

    monkeypatch.setattr(compiling, "SETTINGS", {"dynamic": False, "backend": broken})
    eager, ours, messages = start(shapes_plan("default")), start(shapes_plan("default")), []
    compiled = compile_modules(ours.model.compilable_modules, CPU, True, messages.append)
    expected, _ = train(eager, Compiled(active=False, on_gpu=False, report=messages.append), 3)
    found, _ = train(ours, compiled, 3)
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(eager.ema.values(), ours.ema.values(), strict=True))
    assert not compiled.active
    assert len(messages) == 1
    assert "torch.compile failed. Training continues without it" in messages[0]
    assert "no compiler found" in messages[0]
    assert "\n" not in messages[0]


def test_a_step_can_run_without_compiled_modules(shapes_plan, monkeypatch):
    def broken(graph, inputs):
        raise OSError("it was compiled")

    monkeypatch.setattr(compiling, "SETTINGS", {"dynamic": False, "backend": broken})
    state = start(shapes_plan("default"))
    compiled = compile_modules(state.model.compilable_modules, CPU, True, pytest.fail)
    run = compiled.run
    monkeypatch.setattr(compiled, "run", lambda work, eager=False: run(work, eager=True), raising=False)
    train(state, compiled, 1)
    assert compiled.active


def test_an_error_of_the_step_itself_is_raised(shapes_plan):
    messages = []
    compiled = Compiled(active=True, on_gpu=False, report=messages.append)
    with pytest.raises(ZeroDivisionError):
        compiled.run(lambda: 1 / 0)
    assert len(messages) == 1
    with pytest.raises(ZeroDivisionError):
        compiled.run(lambda: 1 / 0)
    assert len(messages) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_running_out_of_memory_is_no_failure_of_the_compiler(error):
    compiled = Compiled(active=True, on_gpu=True, report=print, compiled=True)

    def work():
        raise error

    with pytest.raises(RuntimeError):
        compiled.run(work)
    assert compiled.active


def test_other_compiled_code_of_the_process_stays_compiled():
    compiled = Compiled(active=True, on_gpu=True, report=print, compiled=True)
    compiled.give_up(RuntimeError("no compiler"))
    stance = torch._dynamo.eval_frame._stance.stance
    assert compiled.run(lambda: torch._dynamo.eval_frame._stance.stance) == "force_eager"
    assert torch._dynamo.eval_frame._stance.stance == stance == "default"
