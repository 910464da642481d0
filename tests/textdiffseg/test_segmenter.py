"""The logits of a segmenter, with and without diffusion."""

import pytest
import torch

from textdiffseg.segmenter import Segmenter


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
def test_an_estimate_takes_one_step_unless_the_plan_fixes_more(plan, make_plan, make_model, bank, patch):
    queries, z_T = bank.all_labels().expand(2), noise(plan, 1)
    for fixed, steps in (({}, 1), ({"steps": 3}, 3)):
        segmenter = Segmenter.of(make_model(make_plan(diffusion=fixed)))
        expected = next(segmenter.logits(patch, queries, z_T, steps))
        assert torch.equal(segmenter.estimate(patch, queries, z_T[0]), expected)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"preset": "unet"}, {"preset": "peer-unet", "diffusion": None, "peer": "unet"}])
def test_without_diffusion_there_is_one_pass_that_reads_no_noise(make_plan, make_model, bank, patch, changes):
    plan = make_plan(**changes)
    segmenter, queries = Segmenter.of(make_model(plan)), bank.all_labels().expand(2)
    assert segmenter.schedule is None
    (without_noise,) = segmenter.logits(patch, queries)
    (with_noise,) = segmenter.logits(patch, queries, noise(plan, 3), steps=4)
    assert without_noise.shape == (2, 3, *plan.patch)
    assert torch.equal(without_noise, with_noise)
    assert torch.equal(without_noise, segmenter.estimate(patch, queries, noise(plan, 1)[0]))


@torch.no_grad()
def test_preset_unet_decodes_its_denoiser_s_output_for_a_zero_latent(make_plan, make_model, bank, patch):
    queries = bank.all_labels().expand(2)
    for network, t in (({}, 1000), ({"unet_timesteps": 7}, 7)):
        model = make_model(make_plan("unet", network=network))
        z_i, skips = model.encode_image(patch)
        zero = torch.zeros(2, model.plan.latent.channels, *z_i.shape[2:])
        z_0 = model.denoise(zero, torch.full((2,), t), model.fuse(z_i, queries))
        assert torch.equal(next(Segmenter.of(model).logits(patch, queries)), model.decode(z_0, skips, queries))


def test_diffusion_needs_noise(plan, make_model, bank, patch):
    with pytest.raises(ValueError, match="needs noise"):
        next(Segmenter.of(make_model(plan)).logits(patch, bank.all_labels().expand(2)))
