"""The training loop follows the plan. Each law is checked on the optimisers, weights and files of a real run.

The runs are too small to learn. A loop with wrong wiring thus fails although its losses fall.
"""

import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from plans.layout import FoldFolder
from textdiffseg.data.splits import Split
from textdiffseg.folds.weights import load_network, read_tensors
from textdiffseg.training import loop
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.log import read_log
from textdiffseg.training.objectives import Losses
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.validate import PatchScores

FOLD = Split(train=("a", "b"), validation=("c",))
EPOCHS, ITERATIONS, RATE, WARM = 3, 4, 2e-3, 3  # WARM: iterations of the warm-up, a quarter of all
TOTAL, DECAY = EPOCHS * ITERATIONS, 0.4
MAX_NORM = 12.0  # nnU-Net's


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory, shapes_plan, store_shapes):
    plan = shapes_plan("unet").model_copy(update={"preset": "default"})  # it has a single stage of training
    changes = {"warmup": WARM / TOTAL, "ema": DECAY, "learning_rate": RATE, "epochs": EPOCHS}
    training = plan.training.model_copy(update=changes)
    plan = plan.model_copy(update={"patch": (8, 8, 8), "training": training})
    return store_shapes(tmp_path_factory.mktemp("preprocessed"), plan)


def train_fold(preprocessed, folder):
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder), TrainingOptions())


def copied(tensors) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def same(some, others) -> bool:
    assert some.keys() == others.keys()
    return all(torch.equal(value, others[name]) for name, value in some.items())


class Watched:
    """What went into each step and validation of a run, and what came out."""

    def __init__(self):
        self.batches, self.steps = [], []
        self.weights, self.averages, self.validated = [], [], []  # `weights` begins with those before the first step
        self.folder = None


def watch(patch) -> Watched:
    """Watch runs from now on."""
    seen = Watched()
    plain_step, plain_validation = loop.train_step, loop.validate_patches

    def step(state, bank, batch, *rest):
        if not seen.weights:
            seen.weights.append(copied(state.model.state_dict()))
        losses = plain_step(state, bank, batch, *rest)
        seen.batches.append(batch)
        seen.weights.append(copied(state.model.state_dict()))
        seen.averages.append(copied(state.ema))
        return losses

    def validate(segmenter, *rest):
        seen.validated.append(copied(segmenter.network.state_dict()))
        return plain_validation(segmenter, *rest)

    patch.setattr(loop, "train_step", step)
    patch.setattr(loop, "validate_patches", validate)
    return seen


def watch_optimisers():
    """[(optimiser, learning rates, gradients)] at each step of any optimiser, and the handle that ends it."""
    seen = []

    def note(optimiser, *_):
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        gradients = [weight.grad.clone() for weight in weights if weight.grad is not None]
        seen.append((optimiser, [group["lr"] for group in optimiser.param_groups], gradients))

    return seen, register_optimizer_step_pre_hook(note)


@pytest.fixture(scope="module")
def whole(preprocessed, tmp_path_factory):
    """A run from its first to its last iteration, watched."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        seen.steps, handle = watch_optimisers()
        seen.folder = tmp_path_factory.mktemp("whole")
        try:
            train_fold(preprocessed, seen.folder)
        finally:
            handle.remove()
    return seen


def scheduled(iteration: int) -> float:
    """DESIGN 5, 7: linear warm-up, then half a cosine."""
    if iteration < WARM:
        return RATE * (iteration + 1) / WARM
    return RATE * (1 + math.cos(math.pi * (iteration - WARM) / (TOTAL - WARM))) / 2


def test_every_optimiser_steps_at_the_rate_of_the_schedule(whole):
    """DESIGN 5, 7."""
    optimisers = {id(optimiser): optimiser for optimiser, _, _ in whole.steps}
    moved = [
        weight for optimiser in optimisers.values() for group in optimiser.param_groups for weight in group["params"]
    ]
    assert len(moved) == len(set(map(id, moved))) == len(list(load_network(FoldFolder(whole.folder)).parameters()))
    for number in optimisers:
        rates = [rates for optimiser, rates, _ in whole.steps if id(optimiser) == number]
        assert [len(set(one)) for one in rates] == [1] * TOTAL
        assert [one[0] for one in rates] == pytest.approx([scheduled(iteration) for iteration in range(TOTAL)])
    assert [epoch.learning_rate for epoch in read_log(whole.folder / "log.jsonl")] == pytest.approx(
        [scheduled(iteration) for iteration in (3, 7, 11)]
    )


def test_averaged_weights_follow_after_every_step_with_the_plan_s_decay(whole):
    """ema <- d ema + (1 - d) weights, d = min(decay, (1 + i) / (10 + i)) (DESIGN 5, 7)."""
    average = whole.weights[0]
    for iteration, (weights, found) in enumerate(zip(whole.weights[1:], whole.averages, strict=True)):
        d = min(DECAY, (1 + iteration) / (10 + iteration))
        average = {name: d * value + (1 - d) * weights[name] for name, value in average.items()}
        torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-5)
    assert (1 + iteration) / (10 + iteration) > DECAY > 0.1, "both ends of the minimum were met"


def test_validation_scores_the_averaged_weights(whole):
    """DESIGN 5, 7."""
    last_of_each = range(ITERATIONS - 1, TOTAL, ITERATIONS)
    assert len(whole.validated) == EPOCHS
    for iteration, scored in zip(last_of_each, whole.validated, strict=True):
        assert same(scored, whole.averages[iteration])
        assert not same(scored, whole.weights[iteration + 1])


def test_samples_query_all_labels_in_the_first_half_and_some_query_fewer_later(whole):
    """DESIGN 5, 8."""
    queried = [[{label for label, _ in query} for query in batch.queries] for batch in whole.batches]
    assert len(queried) == TOTAL
    assert all(labels == {1, 2} for batch in queried[: TOTAL // 2] for labels in batch)
    assert any(len(labels) < 2 for batch in queried[TOTAL // 2 :] for labels in batch)


def test_each_iteration_sees_samples_of_its_own(whole):
    keys = [(key.epoch, key.index) for batch in whole.batches for key in batch.keys]
    assert keys == [(epoch, index) for epoch in range(EPOCHS) for index in range(2 * ITERATIONS)]


def test_gradients_are_clipped_before_any_optimiser_sees_them(preprocessed, tmp_path, monkeypatch):
    plain = Losses.total
    monkeypatch.setattr(Losses, "total", property(lambda self: 1e6 * plain.fget(self)))
    steps, handle = watch_optimisers()
    try:
        train_fold(preprocessed, tmp_path)
    finally:
        handle.remove()
    optimisers = len({id(optimiser) for optimiser, _, _ in steps})
    for first in range(0, len(steps), optimisers):
        gradients = [one for _, _, some in steps[first : first + optimisers] for one in some]
        norm = math.sqrt(sum(float(one.double().square().sum()) for one in gradients))
        assert norm == pytest.approx(MAX_NORM, rel=1e-3)
    assert len(steps) == optimisers * TOTAL


@pytest.mark.parametrize(("scores", "best"), [((0.1, 0.5, 0.3), 1), ((0.4, 0.2, 0.4), 2), ((0.6, 0.5, 0.4), 0)])
def test_the_best_checkpoint_holds_the_averaged_weights_of_the_best_epoch(
    preprocessed, tmp_path, monkeypatch, scores, best
):
    """Of equal epochs the later one."""
    averages, left = [], iter(scores)

    def validate(segmenter, *_):
        averages.append(copied(segmenter.network.state_dict()))
        return PatchScores({"ball": next(left)}, {})

    monkeypatch.setattr(loop, "validate_patches", validate)
    train_fold(preprocessed, tmp_path)
    assert [entry.mean_dice for entry in read_log(tmp_path / "log.jsonl")] == list(scores)
    found = load_network(FoldFolder(tmp_path), "best").state_dict()
    assert [same(found, one) for one in averages] == [epoch == best for epoch in range(EPOCHS)]
    assert same(load_network(FoldFolder(tmp_path), "latest").state_dict(), averages[-1])


def test_a_resumed_run_remembers_its_best_epoch(preprocessed, tmp_path, monkeypatch):
    scores = iter((0.5, 0.3, 0.4))
    monkeypatch.setattr(loop, "validate_patches", lambda *_: PatchScores({"ball": next(scores)}, {}))
    die_at_save(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="killed"):
        train_fold(preprocessed, tmp_path)
    first = read_tensors(tmp_path / "checkpoint_best.safetensors")
    scores = iter((0.3, 0.4))
    train_fold(preprocessed, tmp_path)
    assert same(read_tensors(tmp_path / "checkpoint_best.safetensors"), first)


def test_an_epoch_that_is_logged_but_not_saved_is_logged_once_after_a_kill(preprocessed, tmp_path, monkeypatch):
    die_at_save(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="killed"):
        train_fold(preprocessed, tmp_path)
    assert [entry.epoch for entry in read_log(tmp_path / "log.jsonl")] == [0, 1], "the checkpoint is of epoch 0"
    train_fold(preprocessed, tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    assert [(entry.epoch, entry.iteration) for entry in log] == [(0, 4), (1, 8), (2, 12)]


def die_at_save(monkeypatch, number):
    """The process dies when it is about to write its checkpoint the `number`th time."""
    plain, count = TrainingState.save, 0

    def save(self, folder):
        nonlocal count
        count += 1
        if count == number:
            raise RuntimeError("killed")
        plain(self, folder)

    monkeypatch.setattr(TrainingState, "save", save)
