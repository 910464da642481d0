"""The logits of a segmenter, with and without diffusion."""

import pytest
import torch

from textdiffseg.diffusion.ddim import sample
from textdiffseg.segmenter import Segmenter, condition


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
    model, queries, z_T = make_model(plan), bank.all_labels().expand(2), noise(plan, 1)
    model.residual_scale.copy_(torch.tensor([0.1, 0.2, 0.4, 0.8]))
    segmenter, decoded = Segmenter.of(model), []
    model.label_decoder.register_forward_pre_hook(lambda _, given: decoded.append(given[0]))
    list(segmenter.logits(patch, queries, z_T, steps=3))
    ready = condition(model, patch, queries)
    r = sample(lambda r_t, t: model.denoise(r_t, t, (ready.mask_latent, ready.z_it)), z_T[0], segmenter.schedule, 3)
    scale = torch.tensor([0.1, 0.2, 0.4, 0.8]).view(1, 4, 1, 1, 1)
    torch.testing.assert_close(decoded[0], ready.mask_latent + scale * r)


@torch.no_grad()
def test_without_steps_the_mask_is_decoded_and_no_noise_is_read(plan, make_model, bank, patch):
    model, queries = make_model(plan), bank.all_labels().expand(2)
    (mask,) = Segmenter.of(model).logits(patch, queries)
    (with_noise,) = Segmenter.of(model).logits(patch, queries, noise(plan, 3), steps=0)
    assert torch.equal(mask, with_noise)
    ready = condition(model, patch, queries)
    assert torch.equal(mask, model.decode(ready.mask_latent, ready.skips, queries))
    for parameter in model.denoiser.parameters():
        parameter.fill_(torch.nan)
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
