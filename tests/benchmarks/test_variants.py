"""Each change gives a model that differs from the control and can be trained."""

import copy
from dataclasses import replace

import pytest
import torch

from plans.errors import UserError
from textdiffseg.data.batch import batch_keys
from textdiffseg.data.sampling import first_subset_iteration
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.losses import segmentation_loss
from textdiffseg.networks.blocks import InstanceNorm
from textdiffseg.networks.model import build_model
from textdiffseg.overview import blank
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.objectives import balance_at, objective_of


@pytest.fixture
def variants(benchmark):
    return benchmark("variant_changes")


@pytest.fixture(scope="module")
def slots():
    return torch.randint(0, 3, (2, 16, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def build(variants, model):
    """A function: the untrained model of a change."""

    def build(name):
        change, plan = variants.CHANGES[name], model.plan
        if name == "convolutional head":  # not for models with samples
            plan = plan.model_copy(update={"preset": "unet", "diffusion": None})
        torch.manual_seed(0)
        return change.model(build_model(change.plan(plan)))

    return build


def two(queries, plan):
    """The queries of two samples, with an overview if the plan has one."""
    small = plan.overview
    overview = blank(2, len(plan.channels), small.edge, small.cells) if small else None
    return replace(queries.expand(2), overview=overview)


def test_every_change_can_be_trained_and_changes_the_losses_or_the_settings(variants, build, model, bank, slots):
    def of(name):
        built = build(name)
        objective = objective_of(built)
        optimiser = torch.optim.AdamW(built.parameters(), 1e-2)
        draws = objective.draw(2, batch_keys(0, 2, 2))
        image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
        for _ in range(2):
            found = objective.losses(image, slots, two(bank.all_labels(), built.plan), draws)
            found.total.backward()
            optimiser.step()
        return built.plan, found.total.item()

    plan, control = of(variants.CONTROL)
    for name in variants.CHANGES.keys() - {variants.CONTROL}:
        changed, total = of(name)
        assert torch.isfinite(torch.tensor(total))
        elsewhere = name.startswith("cross-entropy") or variants.CHANGES[name].constant is not None
        assert changed != plan or total != control or elsewhere, name


def test_queries_of_subsets_begin_as_a_change_requires(variants):
    shares = {"subsets from the start": 0, "all labels always": 100, variants.CONTROL: 50}
    for name, first in shares.items():
        with variants.CHANGES[name].applied():
            assert first_subset_iteration(100) == first
    assert first_subset_iteration(100) == 50


def test_voxels_count_alike_as_a_change_requires(variants):
    with variants.CHANGES["voxels count alike"].applied():
        assert balance_at(0.0) == 0
    assert balance_at(0.0) > 0


@pytest.mark.parametrize(("done", "dice"), [(0.4, True), (0.89, True), (0.9, False), (0.99, False)])
def test_the_last_tenth_learns_from_cross_entropy_alone(variants, model, bank, slots, done, dice, monkeypatch):
    monkeypatch.setattr("textdiffseg.training.objectives.BALANCE", 0.0)
    position = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=100)
    state = TrainingState.start(copy.deepcopy(model), position)
    objective = variants.CHANGES["cross-entropy alone in the last tenth"].objective(state)
    image, queries = torch.randn(2, 1, 16, 16, 16), two(bank.all_labels(), model.plan)
    logits = next(Segmenter.of(state.model).logits(image, queries))
    expected = torch.nn.functional.cross_entropy(logits, slots)
    if dice:
        expected = expected + segmentation_loss(logits, slots, queries.labels)
        expected = expected - segmentation_loss(logits, slots, queries.labels, dice_weight=0)
    found = objective.losses(image, slots, queries, None, done)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_alone_is_refused_for_labels_that_overlap(variants, model):
    changed = copy.deepcopy(model)
    changed.plan = model.plan.model_copy(update={"regions": ((3, 7), (3,))})
    position = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=1)
    state = TrainingState.start(changed, position)
    with pytest.raises(UserError, match="labels that exclude each other"):
        variants.CHANGES["cross-entropy alone in the last tenth"].objective(state)


def test_groups_are_normalised_together(build):
    x = torch.randn(1, 16, 4, 4, 4) * torch.arange(1, 17).view(1, 16, 1, 1, 1)
    norms = [part for part in build("instance to group normalisation").modules() if isinstance(part, InstanceNorm)]
    assert {part.num_groups for part in norms} == {4}
    norm = InstanceNorm(16)
    apart = norm(x)
    norm.num_groups = 8
    together = norm(x)
    torch.testing.assert_close(apart.var((0, 2, 3, 4), correction=0), torch.ones(16), atol=1e-3, rtol=0)
    assert (together.var((0, 2, 3, 4), correction=0) - 1).abs().max() > 0.01
    torch.testing.assert_close(together.unflatten(1, (8, 2)).mean((0, 2, 3, 4, 5)), torch.zeros(8), atol=1e-5, rtol=0)


def test_a_convolutional_head_does_not_read_text_and_makes_no_samples(variants, build, model, bank):
    plain, queries = build("convolutional head"), two(bank.all_labels(), model.plan)
    others = replace(queries, vectors=torch.randn_like(queries.vectors))
    g = torch.randn(2, 8, 4, 4, 4)
    assert torch.equal(plain.classify(g, queries), plain.classify(g, others))
    assert not torch.equal(
        plain.classify(g, queries), plain.classify(g, replace(queries, labels=queries.labels.flip(1)))
    )
    with pytest.raises(UserError, match="Use this change with --preset unet"):
        variants.CHANGES["convolutional head"].model(model)


@pytest.mark.parametrize("width", [64, 96, 16])
def test_all_positions_of_a_grid_have_different_encodings(variants, width):
    encodings = variants.positions(torch.zeros(1, width, 10, 14, 10)).flatten(1).T
    assert encodings.shape[1] == width
    assert torch.cdist(encodings, encodings).fill_diagonal_(1).min() > 0.05
