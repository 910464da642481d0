"""Networks for comparison in the training loop: losses, gradients, draws, memory, and a run that stops and resumes."""

from typing import get_args

import pytest
import torch

from plans.choices import PRESETS, PeerNetwork
from plans.layout import FoldFolder
from plans.plan import Plan
from plans.planning import memory
from plans.planning.recipes import RECIPES
from textdiffseg.data.batch import batch_keys
from textdiffseg.data.splits import Split
from textdiffseg.folds.weights import load_network
from textdiffseg.networks.model import build_model
from textdiffseg.progress import Cancelled
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.training import dry_run
from textdiffseg.training.label_diffusion import label_diffusion_loss
from textdiffseg.training.loop import train_fold
from textdiffseg.training.objectives import objective_of
from textdiffseg.training.optimisers import optimisers_of
from textdiffseg.training.options import TrainingOptions

NEW = ("peer-nnunet", "peer-resenc", "peer-unetrpp", "peer-diffunet")
CPU = torch.device("cpu")


def queries(*rows) -> Queries:
    batch, count = len(rows), len(rows[0])
    tokens = torch.zeros(batch, 3, 8), torch.ones(batch, 3, dtype=torch.bool)
    return Queries(torch.tensor(rows), torch.zeros(batch, count, 8), *tokens)


def boxes() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images whose brightness shows the labels, and their targets."""
    targets = torch.zeros(2, 16, 16, 16, dtype=torch.int64)
    targets[:, 3:8, 4:12, 4:12], targets[:, 9:14, 2:8, 4:12] = 1, 2
    torch.manual_seed(0)
    return targets.unsqueeze(1) + 0.1 * torch.randn(2, 1, 16, 16, 16), targets


@pytest.mark.parametrize("preset", NEW)
def test_the_loss_of_one_batch_falls(shapes_plan, preset):
    plan, (image, targets) = shapes_plan(preset), boxes()
    torch.manual_seed(0)
    model = build_model(plan)
    objective = objective_of(model)
    optimisers = optimisers_of(model, plan.training.model_copy(update={"learning_rate": 3e-3}))
    found = []
    for iteration in range(25):
        draws = objective.draw(0, batch_keys(0, iteration, 2))
        model.zero_grad()
        total = objective.losses(image, targets, queries([1, 2], [1, 2]), draws).total
        total.backward()
        for optimiser in optimisers:
            optimiser.step()
        found.append(total.item())
    assert sum(found[-3:]) < 0.75 * sum(found[:3])


@pytest.mark.parametrize("preset", NEW)
def test_the_memory_of_a_step_is_measured_and_the_plan_refitted(shapes_plan, monkeypatch, preset):
    """The plan is so small that the fixed part of the estimate alone would exceed its budget. It is left out here."""
    monkeypatch.setitem(memory.FIXED_BYTES, "cpu", 0.0)
    plan = shapes_plan(preset).model_copy(update={"patch": (24, 24, 24), "median_shape": (24, 24, 24)})
    budget = 0.95 * dry_run.measure(plan, CPU)
    tight = plan.model_copy(update={"memory": plan.memory.model_copy(update={"budget_gb": budget})})
    refitted, note = dry_run.fit_to_memory(tight, CPU)
    assert (refitted.patch, refitted.batch) != (plan.patch, plan.batch)
    assert "refitted to batch" in note
    assert dry_run.measure(refitted, CPU) <= budget


def test_diffunet_draws_noise_of_the_label_map_and_uniform_times(shapes_plan):
    draw = objective_of(build_model(shapes_plan("peer-diffunet"))).draw
    draws = draw(0, batch_keys(0, 0, 500))
    assert draws.eps.shape == (500, 2, 16, 16, 16)
    assert draws.t.mean().item() == pytest.approx(0.5, abs=0.045)
    again = draw(0, batch_keys(0, 0, 3))
    assert torch.equal(again.eps, draws.eps[:3])
    assert objective_of(build_model(shapes_plan("peer-unetrpp"))).draw(0, batch_keys(0, 0, 3)) is None


@pytest.fixture
def loss_of(shapes_plan, monkeypatch):
    """A function that computes Diff-UNet's loss, with given logits (B, N, D, H, W) as its estimate."""

    def loss(logits, targets, asked, **changes):
        plan = Plan.model_validate(shapes_plan("peer-diffunet").model_dump() | changes)
        network, seen = build_model(plan), []
        monkeypatch.setattr(network, "estimate", lambda x_t, t, image, features: seen.append(x_t) or logits)
        image, t, eps = torch.zeros(len(targets), 1, 16, 16, 16), torch.zeros(len(targets)).long(), 0 * logits
        return label_diffusion_loss(network, readout_of(plan), image, targets, asked, t, eps), seen[0]

    return loss


def test_right_masks_cost_nothing_and_wrong_ones_much(loss_of):
    _, targets = boxes()
    masks = torch.stack((targets == 1, targets == 2), 1).float()
    asked = queries([1, 2], [1, 2])
    right, x_0 = loss_of(20 * (2 * masks - 1), targets, asked)
    assert right.item() == pytest.approx(0, abs=1e-4)
    assert torch.equal(x_0, 2 * masks - 1)
    wrong, _ = loss_of(20 * (1 - 2 * masks), targets, asked)
    assert wrong.item() == pytest.approx(20 + 1 + 1, abs=0.05)  # cross-entropy, squared error, 1 - Dice
    undecided, _ = loss_of(0 * masks, targets, asked)
    dice = (masks.sum((0, 2, 3, 4)) + 1) / (masks.sum((0, 2, 3, 4)) + masks[:, 0].numel() / 2 + 1)
    assert undecided.item() == pytest.approx(0.6931 + 0.25 + 1 - dice.mean().item(), abs=1e-3)


def test_labels_keep_their_channels_in_any_order_of_the_queries(loss_of):
    _, targets = boxes()
    swapped = torch.stack((targets[0], torch.tensor([0, 2, 1])[targets[1]]))  # slots of the second sample
    _, usual = loss_of(torch.zeros(2, 2, 16, 16, 16), targets, queries([1, 2], [1, 2]))
    _, x_0 = loss_of(torch.zeros(2, 2, 16, 16, 16), swapped, queries([1, 2], [2, 1]))
    assert torch.equal(x_0, usual)


def test_unknown_labels_and_voxels_do_not_count(loss_of):
    _, targets = boxes()
    targets = torch.where(targets == 2, 0, targets)
    masks = torch.stack((targets == 1, targets == 2), 1).float()
    logits = 20 * (2 * masks - 1)
    logits[:, 1] = 20  # label 2 is not queried
    unknown, x_0 = loss_of(logits, targets, queries([1, 0], [1, 0]))
    assert unknown.item() == pytest.approx(0, abs=1e-4)
    assert (x_0[:, 1] == -1).all()
    logits[:, 0, :2], targets[:, :2] = 20, -1  # wrong, but ignored
    ignored, _ = loss_of(logits, targets, queries([1, 0], [1, 0]))
    assert ignored.item() == pytest.approx(0, abs=1e-4)


def test_overlapping_labels_have_overlapping_masks(loss_of):
    values = torch.zeros(2, 16, 16, 16, dtype=torch.int64)
    values[:, 2:8, 2:8, 2:8], values[:, 4:6, 4:6, 4:6] = 1, 2
    _, x_0 = loss_of(
        torch.zeros(2, 2, 16, 16, 16), values, queries([1, 2], [1, 2]), regions=((1, 2), (2,)), known_together=()
    )
    assert torch.equal(x_0, 2 * torch.stack((values > 0, values == 2), 1).float() - 1)


@pytest.mark.parametrize("preset", NEW)
def test_a_stopped_run_resumes_to_the_same_weights(shapes_plan, store_shapes, tmp_path, preset):
    plan = shapes_plan(preset)
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"iterations_per_epoch": 2})})
    stored = store_shapes(tmp_path / "stored", plan)
    (stored / "plan.json").rename(stored / f"plan_{preset}.json")
    split = Split(train=("a", "b"), validation=("c",))
    options = TrainingOptions(epochs=2, device="cpu", workers=0, seed=3)
    whole, halves = FoldFolder(tmp_path / "whole"), FoldFolder(tmp_path / "halves")
    train_fold(stored, split, whole, options, preset)
    calls = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        train_fold(stored, split, halves, options, preset, cancel=lambda: next(calls))
    train_fold(stored, split, halves, options, preset)
    one, other = (load_network(fold, "latest").state_dict() for fold in (whole, halves))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_preset_has_a_recipe_and_every_peer_a_name_for_the_table_of_reasons():
    assert tuple(RECIPES) == PRESETS
    peers = [recipe for recipe in RECIPES.values() if recipe.peer]
    assert tuple(recipe.peer for recipe in peers) == get_args(PeerNetwork)
    assert all(recipe.network for recipe in peers)
