"""Single samples, whose windows continue each other on the scan's one latent grid."""

import pytest
import torch

from plans.errors import UserError
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference import samples
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.inference.tiling import tile
from textdiffseg.inference.windows import joined
from textdiffseg.networks.common_factors import fitted_to, weighted
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.segmenter import MaskSampler

SETTINGS = PredictionSettings(steps=3, samples=4, seed=2)


@pytest.fixture(scope="module")
def models(plan, make_model):
    return [make_model(plan, seed) for seed in (0, 1)]


@pytest.fixture
def draw(bank):
    """A function that returns the probabilities of each sample."""

    def run(predictor, image, numbers=range(4), **how):
        slabs = zip(*predictor.sample_slabs(image, bank.all_labels(), numbers, **how), strict=True)
        return [joined(of_sample, tuple(image.shape[1:])).probabilities for of_sample in slabs]

    return run


@pytest.mark.parametrize("folds", [1, 2])
def test_a_single_window_gives_the_bits_that_it_gives_alone(models, plan, draw, folds):
    image = torch.randn(1, *plan.patch, generator=torch.Generator().manual_seed(1))
    in_turn = draw(SamplePredictor(models[:folds], SETTINGS), image)
    predictor = SamplePredictor(models[:folds], SETTINGS)
    predictor.in_turn = False
    alone = draw(predictor, image)
    assert all(torch.equal(a, b) for a, b in zip(in_turn, alone, strict=True))
    assert not torch.allclose(in_turn[0], in_turn[1], atol=1e-3)


def test_samples_do_not_depend_on_those_that_are_drawn_with_them(models, image, draw):
    predictor, seen = SamplePredictor(models, SETTINGS), []
    together = draw(predictor, image, progress=lambda done, total: seen.append((done, total)))
    count = predictor.windows(tuple(image.shape[1:]))
    assert seen == [(done, count) for done in range(1, 1 + count)]
    for number in range(4):
        assert torch.equal(draw(predictor, image, [number])[0], together[number])


def test_overlapping_windows_decode_the_same_latents(models, image, bank, monkeypatch):
    """And those of the first window are its own: nothing was drawn before."""
    tiling, seen = tile(tuple(image.shape[1:]), models[0].plan.patch, models[0].plan.latent_stride), {}
    plain = MaskSampler.decode

    def run(in_turn):
        drawn = seen.setdefault(in_turn, [])
        monkeypatch.setattr(MaskSampler, "decode", lambda self, r: (drawn.append(r[0]), plain(self, r))[1])
        predictor = SamplePredictor(models[:1], SETTINGS)
        predictor.room.windows, predictor.in_turn = 1, in_turn
        list(predictor.sample_slabs(image, bank.all_labels(), [3]))
        assert len(drawn) == len(tiling.starts) > 4
        grid, faults = torch.full((4, *tiling.latent_shape), torch.nan), 0
        for start, r in zip(tiling.starts, drawn, strict=True):
            there = grid[:, *tiling.latent_window(start)]
            faults += int(((there != r) & ~there.isnan()).sum())
            there.copy_(r)
        return faults

    assert run(in_turn=True) == 0
    assert run(in_turn=False) > 1000
    assert torch.equal(seen[True][0], seen[False][0])
    assert not torch.allclose(seen[True][-1], seen[False][-1], atol=1e-2)


def test_each_fold_continues_its_own_samples(models, image, draw):
    together = draw(SamplePredictor(models, SETTINGS), image)
    for number, found in enumerate(together):
        assert torch.equal(found, draw(SamplePredictor([models[number // 2 % 2]], SETTINGS), image, [number])[0])


def test_mirrored_samples_are_refused_and_windows_of_the_publication_stay_alone(models, make_model, make_plan):
    with pytest.raises(ValueError, match="samples are not mirrored"):
        SamplePredictor(models, PredictionSettings(steps=2, mirror_axes=(0,)))
    assert SamplePredictor(models, SETTINGS).in_turn
    paper = make_model(make_plan("paper", fusion_level=1, latent={"level": 1, "channels": 1}, paper={}))
    assert not SamplePredictor([paper], SETTINGS).in_turn


def test_a_denoiser_that_is_not_finite_ends_the_scan(models, image, draw, monkeypatch):
    monkeypatch.setattr(TextDiffSeg, "denoise", lambda self, r_t, t, conditions: r_t / 0)
    with pytest.raises(UserError, match="network's output is not finite"):
        draw(SamplePredictor(models, SETTINGS), image, [0])


def test_the_factors_of_a_window_continue_those_of_the_windows_before(
    make_plan_with_factors, make_model, image, bank, monkeypatch
):
    """What they add to the latent is nearly the same where windows overlap. Apart, it differs more."""
    model = make_model(make_plan_with_factors())
    tiling = tile(tuple(image.shape[1:]), model.plan.patch, model.plan.latent_stride)
    given = MaskSampler.given

    def differences(fit):
        added = []
        monkeypatch.setattr(samples, "fitted_to", fit)
        monkeypatch.setattr(
            MaskSampler, "given", lambda self, w: added.append(weighted(w, self.loadings)[0]) or given(self, w)
        )
        predictor = SamplePredictor([model], SETTINGS)
        predictor.room.windows = 1
        list(predictor.sample_slabs(image, bank.all_labels(), [3]))
        assert len(added) == len(tiling.starts) > 4
        grid, found = torch.full((4, *tiling.latent_shape), torch.nan), []
        for start, shift in zip(tiling.starts, added, strict=True):
            there = grid[:, *tiling.latent_window(start)]
            found.append((there - shift)[~there.isnan()].abs())
            there.copy_(shift)
        return torch.cat(found).mean().item()

    apart = differences(lambda factors, *_: factors)
    assert 0 < differences(fitted_to) < 0.8 * apart


def test_a_single_window_has_the_factors_of_its_sample(make_plan_with_factors, make_model, draw):
    model = make_model(make_plan_with_factors())
    image = torch.randn(1, *model.plan.patch, generator=torch.Generator().manual_seed(1))
    in_turn = draw(SamplePredictor([model], SETTINGS), image)
    predictor = SamplePredictor([model], SETTINGS)
    predictor.in_turn = False
    for one, other in zip(in_turn, draw(predictor, image), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not torch.allclose(in_turn[0], in_turn[1], atol=1e-2)
