"""The losses of both stages of a training, and the modules that learn from them."""

from dataclasses import replace

import pytest
import torch

from textdiffseg.data.batch import batch_keys
from textdiffseg.diffusion.losses import segmentation_loss
from textdiffseg.diffusion.schedule import log_snr_schedule
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.training.draws import LatentDraws
from textdiffseg.training.objectives import Losses, objective_of

BATCH = 4
STAGE_1 = {"image_encoder", "fusion", "estimator", "to_latent", "label_encoder", "label_decoder"}


@pytest.fixture
def setting(shapes_plan):
    """A model far from its start, and images, slots and queries."""
    torch.manual_seed(0)
    queries = Queries(
        torch.tensor([[1], [2], [2], [1]]),
        torch.randn(BATCH, 1, 8),
        torch.randn(BATCH, 3, 8),
        torch.ones(BATCH, 3, dtype=torch.bool),
    )
    image, slots = torch.randn(BATCH, 1, 16, 16, 16), torch.randint(0, 2, (BATCH, 16, 16, 16))
    model = build_model(shapes_plan("default"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.residual_scale.copy_(torch.tensor([0.2, 0.5, 1.0, 2.0]))
    return model, image, slots, queries


def drawn(rows=(2, 0), skips=(False, True)) -> LatentDraws:
    return LatentDraws(torch.tensor(rows, dtype=torch.int64), torch.tensor(skips))


def losses_of(setting, draws) -> Losses:
    model, *inputs = setting
    return objective_of(model).losses(*inputs, draws)


def learning(model, loss) -> set[str]:
    """The modules that get a gradient other than 0."""
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(names, found, strict=True)
    return {name.partition(".")[0] for name, one in pairs if one is not None and one.abs().max() > 0}


def calls_of(parts, run):
    """The calls of each module while `run()` runs, as [(inputs, output)]."""
    calls = [[] for _ in parts]
    handles = [
        part.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs, output)))
        for part, seen in zip(parts, calls, strict=True)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def test_masks_and_autoencoder_learn_without_the_denoiser(setting):
    model, found = setting[0], losses_of(setting, drawn())
    assert found.residual is None
    assert learning(model, found.total) == STAGE_1
    assert learning(model, found.estimate) == STAGE_1 - {"label_encoder"}
    assert learning(model, found.latent) == {"image_encoder", "fusion", "estimator", "to_latent"}
    assert learning(model, found.reconstruction) >= {"label_encoder", "label_decoder"}
    assert "to_latent" not in learning(model, found.reconstruction)
    without = losses_of(setting, drawn(skips=(False, False))).reconstruction
    assert learning(model, without) == {"label_encoder", "label_decoder"}


def test_without_a_drawn_sample_the_mask_alone_has_a_loss(setting):
    found = losses_of(setting, drawn(rows=(), skips=()))
    assert list(found.named()) == ["estimate"]
    assert torch.equal(found.estimate, losses_of(setting, drawn()).estimate)


def test_the_autoencoder_learns_only_from_the_drawn_samples(setting):
    model, image, slots, queries = setting
    others = torch.ones(BATCH, dtype=torch.bool).index_fill(0, torch.tensor([2, 0]), False).view(-1, 1, 1, 1)
    plain = losses_of(setting, drawn())
    changed = losses_of((model, image, slots ^ others, queries), drawn())
    assert (changed.reconstruction, changed.latent) == (plain.reconstruction, plain.latent)
    assert changed.estimate != plain.estimate
    assert losses_of((model, image, slots ^ ~others, queries), drawn()).reconstruction != plain.reconstruction


def test_padded_slots_do_not_change_the_losses(setting):
    model, image, slots, queries = setting
    plain = losses_of(setting, drawn())
    torch.testing.assert_close(losses_of((model, image, slots, queries.padded(2)), drawn()).named(), plain.named())


def test_skips_reach_the_mask_s_decoder_and_that_of_some_reconstructions(setting):
    model, draws = setting[0], drawn()
    parts = (model.image_encoder, model.estimator, model.label_decoder)
    ((_, (_, fine)),), ((_, features),), decoded = calls_of(parts, lambda: losses_of(setting, draws))
    encoded = (*fine, features)
    (_, of_masks, _), (_, of_reconstructions, _) = (inputs for inputs, _ in decoded)
    assert len(of_masks) == len(of_reconstructions) == len(encoded) > 0
    for mask, reconstruction, whole in zip(of_masks, of_reconstructions, encoded, strict=True):
        assert torch.equal(mask, whole)
        assert torch.equal(reconstruction, torch.stack((torch.zeros_like(whole[2]), whole[0])))
        assert whole.abs().amax(dim=(1, 2, 3, 4)).min() > 0


def test_each_loss_compares_its_module_s_output_with_the_labels_of_its_samples(setting):
    """seg(decoder(m)), w seg(decoder(z_0)) and w |m - z_0|^2, the last two of the drawn samples."""
    model, _, slots, queries = setting
    found, parts, draws = [], (model.label_encoder, model.to_latent, model.label_decoder), drawn()
    encoded, estimated, decoded = calls_of(parts, lambda: found.append(losses_of(setting, draws)))
    ((painted, z_0),), ((_, m),) = encoded, estimated
    (mask, logits), (reconstructed, logits_clean) = decoded
    rows = draws.reconstructed
    assert torch.equal(painted[0], slots[rows])
    assert torch.equal(mask[0], m)
    assert torch.equal(reconstructed[0], z_0)
    for given in (painted[1], reconstructed[2]):
        assert torch.equal(given.vectors, queries.vectors[rows])
    torch.testing.assert_close(
        found[0].named(),
        {
            "estimate": segmentation_loss(logits, slots, queries.labels),
            "reconstruction": 0.2 * segmentation_loss(logits_clean, slots[rows], queries.labels[rows]),
            "latent": 0.2 * (m[rows] - z_0).square().mean(),
        },
    )
    torch.testing.assert_close(found[0].total, sum(found[0].named().values()))


def residual_of(setting, draws=None):
    """The objective of the denoiser, its draws and its losses."""
    model, *inputs = setting
    objective = objective_of(model, trains_denoiser=True)
    draws = draws or objective.draw(0, batch_keys(0, 0, BATCH))
    return objective, draws, objective.losses(*inputs, draws)


def test_only_the_denoiser_learns_from_its_loss(setting):
    _, _, found = residual_of(setting)
    assert list(found.named()) == ["residual"]
    assert learning(setting[0], found.total) == {"denoiser"}


def test_the_denoiser_s_loss_is_the_error_of_the_scaled_residual_weighted_by_1_plus_snr(setting):
    """r_0 = (z_0 - m) / s per channel. The conditions of four noisy latents are m and z_it."""
    model = setting[0]
    found, parts = [], (model.fusion, model.to_latent, model.label_encoder, model.denoiser)
    calls = calls_of(parts, lambda: found.append(residual_of(setting)))
    (_, z_it), (_, m), (_, z_0), ((inputs, t), v_hat) = (one[0] for one in calls)
    _, draws, losses = found[0]
    z_it, m, z_0 = (one.repeat_interleave(4, dim=0) for one in (z_it, m, z_0))
    r_0 = (z_0 - m) / torch.tensor([0.2, 0.5, 1.0, 2.0]).view(1, 4, 1, 1, 1)
    assert len(draws.t) == len(draws.eps) == 4 * BATCH
    schedule = log_snr_schedule(model.plan.diffusion)
    log_snr = schedule.max_log_snr + draws.t * (schedule.min_log_snr - schedule.max_log_snr)
    a, sigma = (log_snr.sigmoid().sqrt().view(-1, 1, 1, 1, 1), (-log_snr).sigmoid().sqrt().view(-1, 1, 1, 1, 1))
    r_t = a * r_0 + sigma * draws.eps
    assert torch.equal(t, draws.t)
    for given, expected in zip(inputs, (r_t, m, z_it), strict=True):
        torch.testing.assert_close(given, expected)
    r_0_hat = a * r_t - sigma * v_hat
    weighted = (1 + log_snr.exp()) * (r_0_hat - r_0).square().flatten(1).mean(1)
    torch.testing.assert_close(losses.residual, weighted.mean(), rtol=1e-3, atol=1e-4)


def test_ignored_positions_do_not_count_in_the_denoiser_s_loss(setting):
    model, image, slots, queries = setting
    slots = slots.clone()
    slots[:, :8] = -1
    _, draws, plain = residual_of((model, image, slots, queries))
    eps = draws.eps.clone()
    assert residual_of((model, image, slots, queries), replace(draws, eps=eps))[2].residual == plain.residual
    assert residual_of((model, image, torch.full_like(slots, -1), queries), draws)[2].residual == 0
