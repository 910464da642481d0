"""The losses of both stages of a training, and the modules that learn from them."""

from dataclasses import replace

import pytest
import torch

from textdiffseg.data.batch import batch_keys
from textdiffseg.diffusion.noise import smooth_noise
from textdiffseg.diffusion.schedule import schedule_of
from textdiffseg.losses import segmentation_loss
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import MaskSampler, mask_features
from textdiffseg.training.checkpoint import SAMPLER
from textdiffseg.training.draws import draw_noise
from textdiffseg.training.factor_likelihood import log_likelihoods
from textdiffseg.training.objectives import FACTOR_DRAWS, NOISY_LATENTS, objective_of, true_latent

BATCH = 4
MASKS = {"image_encoder", "fusion", "estimator", "label_decoder"}


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
    return model, image, slots, queries


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


def test_the_masks_learn_alone_first(setting):
    model, *inputs = setting
    found = objective_of(model).losses(*inputs, None)
    assert list(found.named()) == ["estimate"]
    assert learning(model, found.total) == MASKS
    _, slots, queries = inputs
    logits = mask_features(model, inputs[0], queries).logits
    torch.testing.assert_close(found.estimate, segmentation_loss(logits, slots, queries.labels))


def test_missed_classes_count_less_and_less(setting):
    model, image, slots, queries = setting
    objective, logits = objective_of(model), mask_features(model, image, queries).logits
    for done, balance in ((0.0, 0.2), (0.25, 0.15), (0.5, 0.1), (1.0, 0.0)):
        expected = segmentation_loss(logits, slots, queries.labels, balance=balance)
        torch.testing.assert_close(objective.losses(image, slots, queries, None, done).total, expected)


def of_samples(setting, draws=None):
    """The objective of the second stage, its draws and its losses."""
    model, *inputs = setting
    objective = objective_of(model, samples=True)
    draws = draws or objective.draw(0, batch_keys(0, 0, BATCH))
    return objective, draws, objective.losses(*inputs, draws)


def test_only_the_sampler_learns_in_the_second_stage(setting):
    _, _, found = of_samples(setting)
    assert list(found.named()) == ["reconstruction", "residual"]
    assert learning(setting[0], found.reconstruction) == {"sample_decoder"}
    assert learning(setting[0], found.residual) == {"denoiser"}


def test_without_a_learned_decoder_the_denoiser_learns_alone(setting):
    model, *inputs = setting
    plan = model.plan.model_copy(
        update={"diffusion": model.plan.diffusion.model_copy(update={"decoder": "likelihood"})}
    )
    lean = build_model(plan)
    lean.load_state_dict({name: value for name, value in model.state_dict().items() if "sample_decoder" not in name})
    _, draws, expected = of_samples(setting)
    _, _, found = of_samples((lean, *inputs), draws)
    assert list(found.named()) == ["residual"]
    assert learning(lean, found.residual) == {"denoiser"}
    torch.testing.assert_close(found.residual, expected.residual)


def with_factors(model, **changes):
    """The model with the samples of new plans."""
    diffusion = model.plan.diffusion.model_copy(update={"decoder": "likelihood", "n_factors": 3})
    torch.manual_seed(1)
    new = build_model(model.plan.model_copy(update={"diffusion": diffusion, **changes}))
    weights = {name: value for name, value in model.state_dict().items() if "sample_decoder" not in name}
    new.load_state_dict(new.state_dict() | weights)
    return new


def test_factors_and_denoiser_learn_from_their_own_losses(setting):
    model, *inputs = setting
    new = with_factors(model)
    _, draws, found = of_samples((new, *inputs))
    assert list(found.named()) == ["likelihood", "residual"]
    assert draws.factors.shape == (FACTOR_DRAWS, BATCH, 3)
    assert learning(new, found.residual) == {"denoiser"}
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(name.startswith(SAMPLER))
    learned = torch.autograd.grad(of_samples((new, *inputs))[2].likelihood, list(new.common_factors.parameters()))
    assert sum(one.abs().sum() for one in learned) > 0


def test_the_loss_of_the_factors_is_the_likelihood_of_the_mean_over_draws(setting):
    model, *inputs = setting
    image, slots, queries = inputs
    new = with_factors(model)
    objective, draws, found = of_samples((new, *inputs))
    sampler = objective.segmenter.mask_sampler(image, queries)
    log_p = log_likelihoods(sampler, draws.factors, slots, objective.readout)
    best = log_p.amax(0)  # of each patch; the probabilities themselves are too small for numbers
    expected = -(best + (log_p - best).exp().mean(0).log()).mean() / 8**3
    torch.testing.assert_close(found.likelihood, expected, rtol=1e-3, atol=1e-4)


def test_the_denoiser_learns_around_the_mask_of_the_likeliest_draw(setting, monkeypatch):
    model, *inputs = setting
    new, seen = with_factors(model), []
    given = MaskSampler.given
    monkeypatch.setattr(MaskSampler, "given", lambda self, w: seen.append((w, given(self, w))) or seen[-1][1])
    found = []
    ((_, m, _), _), _ = calls_of([new.denoiser], lambda: found.append(of_samples((new, *inputs))))[0][0]
    objective, draws, _ = found[0]
    ((chosen, sampler),) = seen
    log_p = log_likelihoods(objective.segmenter.mask_sampler(*inputs[::2]), draws.factors, inputs[1], objective.readout)
    for row in range(BATCH):
        assert torch.equal(chosen[row], draws.factors[log_p[:, row].argmax(), row])
    assert torch.equal(m, sampler.posterior.mean.repeat_interleave(NOISY_LATENTS, dim=0))
    mask = mask_features(new, *inputs[::2])
    assert not torch.allclose(sampler.posterior.mean, new.posterior(mask.logits.softmax(1)[:, 1:], inputs[2]).mean)


def test_the_decoder_of_samples_reads_true_latents_and_the_skips_of_the_last_half(setting):
    model, image, slots, queries = setting
    found = []
    parts = (model.sample_decoder, model.sample_decoder.classifier)
    (((z, skips), _),), (((_, read), logits),) = calls_of(parts, lambda: found.append(of_samples(setting)[2]))
    rows = torch.tensor([2, 3])
    masks = torch.stack([slots == 1], dim=1)
    mask = mask_features(model, image, queries)
    torch.testing.assert_close(z, model.encode_masks(masks, queries)[rows])
    for given, whole in zip(skips, mask.skips, strict=True):
        torch.testing.assert_close(given, whole[rows])
    assert torch.equal(read.labels, queries.labels[rows])
    torch.testing.assert_close(found[0].reconstruction, segmentation_loss(logits, slots[rows], queries.labels[rows]))


def test_the_denoiser_s_loss_is_the_error_of_the_residual_weighted_by_1_plus_snr_and_variance(setting):
    """r_0 = (z_0 - m) / s. The conditions of the noisy latents of a sample are m and the mask's features."""
    model, image, slots, queries = setting
    found = []
    ((inputs, t), v_hat) = calls_of([model.denoiser], lambda: found.append(of_samples(setting)))[0][0]
    _, draws, losses = found[0]
    mask = mask_features(model, image, queries)
    posterior = model.posterior(mask.logits.softmax(1)[:, 1:], queries)
    z_0 = model.encode_masks(torch.stack([slots == 1], dim=1), queries)
    parts = ((z_0 - posterior.mean) / posterior.scale, posterior.mean, mask.skips[-1], posterior.scale)
    r_0, m, g_1, s = (one.repeat_interleave(NOISY_LATENTS, dim=0) for one in parts)
    assert len(draws.t) == len(draws.eps) == NOISY_LATENTS * BATCH
    schedule = schedule_of(model.plan)
    log_snr = schedule.max_log_snr + draws.t * (schedule.min_log_snr - schedule.max_log_snr)
    a, sigma = (log_snr.sigmoid().sqrt().view(-1, 1, 1, 1, 1), (-log_snr).sigmoid().sqrt().view(-1, 1, 1, 1, 1))
    r_t = a * r_0 + sigma * draws.eps
    assert torch.equal(t, draws.t)
    for given, expected in zip(inputs, (r_t, m, g_1), strict=True):
        torch.testing.assert_close(given, expected)
    r_0_hat = a * r_t - sigma * v_hat
    weighted = (1 + log_snr.exp()).view(-1, 1, 1, 1, 1) * (r_0_hat - r_0).square() * s.square()
    torch.testing.assert_close(losses.residual, weighted.sum() / s.square().sum(), rtol=1e-3, atol=1e-4)


def test_ignored_positions_do_not_count_in_the_sampler_s_losses(setting):
    model, image, slots, queries = setting
    ignored = slots.clone()
    ignored[:, :8] = -1
    _, draws, plain = of_samples((model, image, ignored, queries))
    eps = draws.eps.clone()
    eps[:, :, :4] += 1e-3  # positions of ignored voxels; the denoiser carries a little of it to the others
    changed = of_samples((model, image, ignored, queries), replace(draws, eps=eps))[2]
    torch.testing.assert_close(changed.residual, plain.residual, rtol=0.02, atol=0)
    nothing = of_samples((model, image, torch.full_like(slots, -1), queries), draws)[2]
    assert nothing.residual == 0
    assert of_samples((model, image, slots, queries), draws)[2].residual != plain.residual


def test_padded_slots_do_not_change_the_losses(setting):
    model, image, slots, queries = setting
    _, draws, plain = of_samples(setting)
    padded = of_samples((model, image, slots, queries.padded(2)), draws)[2]
    torch.testing.assert_close(padded.named(), plain.named())


def test_overlapping_labels_have_a_latent(setting):
    """The true masks overlap, and so do the probabilities."""
    model, image, slots, queries = setting
    plan = model.plan.model_copy(update={"regions": ((1, 2), (2,))})
    nested = build_model(plan)
    nested.load_state_dict(model.state_dict())
    _, _, found = of_samples((nested, image, 2 * slots, queries))
    assert torch.isfinite(found.total)
    masks = torch.stack([slots == 1], dim=1)  # value 2 belongs to both labels
    calls = calls_of([nested.label_latent], lambda: of_samples((nested, image, 2 * slots, queries)))[0]
    assert torch.equal(calls[0][0][0], masks)


def test_ignored_voxels_of_a_true_latent_have_the_probabilities_of_the_mask(setting):
    model, _, slots, queries = setting
    p = torch.rand(BATCH, 1, 16, 16, 16)
    ignored = slots.clone()
    ignored[:, :8] = -1
    found = true_latent(model, readout_of(model.plan), p, ignored, queries)
    torch.testing.assert_close(found[:, :, :4], model.encode_masks(p, queries)[:, :, :4])
    masks = torch.stack([slots == 1], dim=1)
    torch.testing.assert_close(found[:, :, 4:], model.encode_masks(masks, queries)[:, :, 4:])


def test_the_denoiser_learns_on_the_noise_from_which_sampling_starts(setting):
    objective = objective_of(setting[0], samples=True)
    plan, keys = setting[0].plan, batch_keys(0, 0, BATCH)
    expected = draw_noise(plan.latent.channels, plan.latent_shape, 0, keys, NOISY_LATENTS, draw=smooth_noise)
    assert torch.equal(objective.draw(0, keys).eps, expected.eps)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    shape = (plan.latent.channels, *plan.latent_shape)
    assert torch.equal(objective.schedule.noise(shape, generators[0]), smooth_noise(shape, generators[1]))
