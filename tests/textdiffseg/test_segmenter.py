"""The logits of a segmenter, with and without diffusion."""

import pytest
import torch

from textdiffseg.diffusion.ddim import sample
from textdiffseg.segmenter import Segmenter, mask_features


@pytest.fixture
def patch(plan):
    return torch.randn(2, 1, *plan.patch, generator=torch.Generator().manual_seed(2))


def noise(plan, samples):
    return torch.randn(samples, 2, plan.latent.channels, *plan.latent_shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_each_sample_starts_from_its_own_noise(plan, make_model, bank, patch):
    segmenter, queries = Segmenter.of(make_model(plan)), bank.all_labels().expand(2)
    z_T = noise(plan, 3)
    together = list(segmenter.logits(patch, queries, z_T, steps=2))
    assert [one.shape for one in together] == [(2, 3, *plan.patch)] * 3
    for one, start in zip(together, z_T, strict=True):
        assert torch.equal(one, next(segmenter.logits(patch, queries, start[None], steps=2)))
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@torch.no_grad()
def test_a_sample_is_the_mask_s_latent_and_its_scaled_residual(plan, make_model, bank, patch):
    """z = m + spread s r. The denoiser reads m and the mask's features on the latent grid."""
    model, queries, z_T = make_model(plan), bank.all_labels().expand(2), noise(plan, 1)
    model.spread.fill_(1.5)
    segmenter, decoded = Segmenter.of(model), []
    model.sample_decoder.register_forward_pre_hook(lambda _, given: decoded.append(given))
    (logits,) = segmenter.logits(patch, queries, z_T, steps=3)
    mask = mask_features(model, patch, queries)
    posterior = model.posterior(mask.logits.softmax(1)[:, 1:], queries)
    r = sample(lambda r_t, t: model.denoise(r_t, t, (posterior.mean, mask.skips[-1])), z_T[0], segmenter.schedule, 3)
    z, skips = decoded[0]
    torch.testing.assert_close(z, posterior.mean + 1.5 * posterior.scale * r)
    assert all(torch.equal(one, other) for one, other in zip(skips, mask.skips, strict=True))
    assert torch.equal(logits, model.sample_decoder.logits(z, skips, queries))


@torch.no_grad()
def test_without_a_learned_decoder_a_sample_is_the_mask_weighed_with_its_latent(make_plan, make_model, bank, patch):
    plan = make_plan()
    plan = plan.model_copy(update={"diffusion": plan.diffusion.model_copy(update={"decoder": "likelihood"})})
    model, queries = make_model(plan), bank.all_labels().expand(2)
    assert model.sample_decoder is None
    assert not any(name.startswith("sample_decoder") for name in model.state_dict())
    sampler = Segmenter.of(model).mask_sampler(patch, queries)
    m, r = sampler.posterior.mean, torch.randn_like(sampler.posterior.mean)
    assert torch.equal(sampler.decode_latent(m), sampler.features.logits), "the mean gives the mask"
    logits = sampler.decode(r, torch.tensor(1.5))
    weighed = model.label_latent.weigh(
        sampler.features.logits, 1.5 * sampler.posterior.scale * r, model._vectors(queries)
    )
    torch.testing.assert_close(logits, weighed, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits, sampler.features.logits, atol=0.1)


@torch.no_grad()
def test_without_steps_the_mask_is_decoded_and_no_noise_is_read(plan, make_model, bank, patch):
    model, queries = make_model(plan), bank.all_labels().expand(2)
    (mask,) = Segmenter.of(model).logits(patch, queries)
    (with_noise,) = Segmenter.of(model).logits(patch, queries, noise(plan, 3), steps=0)
    assert torch.equal(mask, with_noise)
    for sampling in (model.denoiser, model.sample_decoder, model.label_latent):
        for value in (*sampling.parameters(), *sampling.buffers()):
            value.fill_(torch.nan)
    assert torch.equal(next(Segmenter.of(model).logits(patch, queries)), mask)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"preset": "unet"}, {"preset": "peer-unet", "diffusion": None, "peer": "unet"}])
def test_without_diffusion_there_is_one_pass_that_reads_no_noise(make_plan, make_model, bank, patch, changes):
    plan = make_plan(**changes)
    segmenter, queries = Segmenter.of(make_model(plan)), bank.all_labels().expand(2)
    assert segmenter.schedule is None
    (without_noise,) = segmenter.logits(patch, queries)
    (with_noise,) = segmenter.logits(patch, queries, noise(plan, 3), steps=0)
    assert without_noise.shape == (2, 3, *plan.patch)
    assert torch.equal(without_noise, with_noise)


def test_sampling_needs_noise_and_diffusion(plan, make_plan, make_model, bank, patch):
    queries = bank.all_labels().expand(2)
    with pytest.raises(ValueError, match="needs diffusion, noise"):
        next(Segmenter.of(make_model(plan)).logits(patch, queries, steps=2))
    unet = make_model(make_plan("unet"))
    with pytest.raises(ValueError, match="preset unet: sampling needs"):
        next(Segmenter.of(unet).logits(patch, queries, noise(unet.plan, 1), steps=2))


@torch.no_grad()
def test_a_sample_first_chooses_its_mask_by_its_factors(make_plan_with_factors, make_model, bank, patch):
    """p, m and s are those of the mask that the factors choose. The denoiser reads this m."""
    plan = make_plan_with_factors()
    model, queries, z_T = make_model(plan), bank.all_labels().expand(2), noise(plan, 2)
    segmenter, factors = Segmenter.of(model), torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.0, 0.0]])
    first, second = segmenter.logits(patch, queries, z_T, 3, factors)
    mask = mask_features(model, patch, queries)
    posterior = model.posterior(mask.logits.softmax(1)[:, 1:], queries)
    loadings = model.common_factors(posterior, mask.on_latent_grid)
    shift = torch.einsum("i,bikdhw->bkdhw", factors[0], loadings)
    chosen = model.weigh(mask.logits, shift, queries)
    assert not torch.allclose(chosen, mask.logits, atol=0.1)
    given = model.posterior(chosen.softmax(1)[:, 1:], queries)
    conditions = (given.mean, mask.on_latent_grid)
    r = sample(lambda r_t, t: model.denoise(r_t, t, conditions), z_T[0], segmenter.schedule, 3)
    expected = model.weigh(chosen, model.spread * given.scale * r, queries)
    torch.testing.assert_close(first, expected, atol=1e-3, rtol=1e-4)
    (without,) = segmenter.logits(patch, queries, z_T[1:], 3)
    torch.testing.assert_close(second, without, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_without_factors_keeps_its_mask(plan, make_model, bank, patch):
    model = make_model(plan)
    sampler = Segmenter.of(model).mask_sampler(patch, bank.all_labels().expand(2))
    assert sampler.given(torch.zeros(2, 0)) is sampler
    assert not any(name.startswith("common_factors") for name in model.state_dict())


def test_the_publication_s_model_has_no_mask_without_steps(make_plan, make_model, bank, patch):
    """Its mask is a sample."""
    paper = make_model(make_plan("paper", fusion_level=1, latent={"level": 1, "channels": 1}, paper={}))
    with pytest.raises(ValueError, match="preset paper: sampling needs"):
        next(Segmenter.of(paper).logits(patch, bank.all_labels().expand(2), noise(paper.plan, 1), steps=0))
