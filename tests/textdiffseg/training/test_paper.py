"""The publication's losses (docs/paper.md): its weights, its gradients end to end, its averages."""

import pytest
import torch

from plans.planning import paper, recipes
from textdiffseg.data.batch import batch_keys
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.losses import segmentation_loss
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.draws import draw_noise
from textdiffseg.training.objectives import objective_of

PEERS = [preset for preset, recipe in recipes.RECIPES.items() if recipe.peer]

QUERIES = Queries(
    torch.tensor([[1, 2], [2, 1]]), torch.randn(2, 2, 8), torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
)


def step(plan, seed=0):
    """A model, its losses on random data, and what was drawn."""
    torch.manual_seed(seed)
    model = build_model(plan)
    image, slots = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 16, 16, 16))
    objective = objective_of(model)
    draws = objective.draw(seed, batch_keys(0, 2, 2))
    return model, objective.losses(image, slots, QUERIES, draws), draws


@pytest.mark.parametrize("preset", [*recipes.VARIANTS, *(preset for preset in PEERS if preset != "peer-swinunetr")])
def test_every_parameter_learns_and_predictions_come_out(shapes_plan, preset):
    plan = shapes_plan(preset)
    torch.manual_seed(0)
    model = build_model(plan)
    for parameter in model.parameters():  # zero-initialised layers hide what lies before them
        parameter.data += 0.01 * torch.randn_like(parameter)
    image, slots = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 16, 16, 16))
    objective = objective_of(model)
    objective.losses(image, slots, QUERIES, objective.draw(0, batch_keys(0, 0, 2))).total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == []
    noise = torch.randn(1, 2, plan.latent.channels, 8, 8, 8)
    logits = next(Segmenter.of(model.eval()).logits(image, QUERIES, noise, plan.mask_steps))
    assert logits.shape == (2, 3, 16, 16, 16)
    assert logits.isfinite().all()


def test_swinunetr_pads_to_sizes_that_it_can_halve_and_gives_the_queried_channels(shapes_plan):
    torch.manual_seed(0)
    model, image = build_model(shapes_plan("peer-swinunetr")).eval(), torch.randn(1, 1, 16, 16, 16)
    one, both = (
        Queries(torch.tensor([labels]), torch.randn(1, len(labels), 8), QUERIES.tokens[:1], QUERIES.token_mask[:1])
        for labels in ([2, 0], [1, 2])
    )
    with torch.no_grad():
        queried, every = model.logits(image, one), model.logits(image, both)
    assert every.shape == (1, 3, 16, 16, 16)
    torch.testing.assert_close(queried[:, :2], every[:, [0, 2]])
    assert (queried.softmax(1)[:, 2] == 0).all()
    state = TrainingState.start(model, TrainingPosition(seed=0, epochs=1, iterations_per_epoch=1))
    state.average(0.9)  # of whole numbers, too
    assert any(not value.is_floating_point() for value in state.ema.values())


def test_the_noise_loss_alone_reaches_the_label_encoder(shapes_plan):
    """Gradients run end to end."""
    model, parts, _ = step(shapes_plan("paper"))
    parts.latent.backward()
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in model.label_encoder.parameters())


def test_gamma_and_lambda_weigh_dice_and_noise(shapes_plan):
    plan = shapes_plan("paper")
    no_dice, doubled = (
        plan.model_copy(update={"paper": plan.paper.model_copy(update=change)})
        for change in ({"dice_weight": 0.0}, {"dice_weight": 4.0, "latent_weight": 3.0})
    )
    (_, usual, _), (_, cross_entropy, _), (_, more, _) = (step(one) for one in (plan, no_dice, doubled))
    torch.testing.assert_close(more.estimate - usual.estimate, usual.estimate - cross_entropy.estimate)
    torch.testing.assert_close(more.latent, 3 * usual.latent)
    assert usual.reconstruction is None


def test_the_parent_s_decoder_input_is_a_switch_of_the_plan(shapes_plan):
    """The predicted noise is the same; the decoder input differs."""
    plan = shapes_plan("paper")
    parent = plan.model_copy(update={"paper": plan.paper.model_copy(update={"decoder_input": "z_t - eps"})})
    (_, by_eq_3, _), (_, by_difference, _) = step(plan), step(parent)
    assert torch.equal(by_eq_3.latent, by_difference.latent)
    assert by_difference.estimate.isfinite()
    assert by_difference.estimate != by_eq_3.estimate


def test_dice_weight_scales_the_dice_alone():
    logits, slots, labels = torch.randn(1, 3, 4, 4, 4), torch.randint(0, 3, (1, 4, 4, 4)), torch.tensor([[1, 2]])
    zero, one, two = (segmentation_loss(logits, slots, labels, dice_weight=weight) for weight in (0.0, 1.0, 2.0))
    torch.testing.assert_close(two - one, one - zero)
    torch.testing.assert_close(one, segmentation_loss(logits, slots, labels))


def test_time_steps_are_uniform_up_to_T(shapes_plan):
    plan = shapes_plan("paper")
    t = draw_noise(1, (1, 1, 1), 0, batch_keys(0, 0, 10_000), timesteps=plan.paper.timesteps).t
    assert (t.min().item(), t.max()) == (pytest.approx(1e-3), 1)
    assert t.mean().item() == pytest.approx(0.5005, abs=0.015)
    drawn = objective_of(build_model(plan)).draw(0, batch_keys(0, 0, 20)).t
    torch.testing.assert_close(1000 * drawn, (1000 * drawn).round())


def test_only_the_denoiser_is_averaged(shapes_plan):
    plan = shapes_plan("paper")
    plan = plan.model_copy(update={"training": paper.training_plan(plan.training)})
    torch.manual_seed(0)
    state = TrainingState.start(
        build_model(plan), TrainingPosition(seed=0, epochs=1, iterations_per_epoch=2000, iteration=1000)
    )
    before = {name: value.clone() for name, value in state.ema.items()}
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter += 1
    state.average(0.9)
    for name, _ in state.model.named_parameters():
        moved = 0.1 if name.startswith("denoiser.") else 1.0
        torch.testing.assert_close(state.ema[name], before[name] + moved)
