"""Single samples, whose windows continue each other on the scan's one latent grid."""

import pytest
import torch

from plans.errors import UserError
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.inference.tiling import tile
from textdiffseg.inference.windows import joined
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


def test_all_windows_of_a_sample_have_its_factors(make_plan_with_factors, make_model, image, bank, monkeypatch):
    """Two samples at once. A window that is filled up repeats the last one."""
    predictor, seen, given = SamplePredictor([make_model(make_plan_with_factors())], SETTINGS), [], MaskSampler.given
    monkeypatch.setattr(MaskSampler, "given", lambda self, w: seen.append(w) or given(self, w))
    list(predictor.sample_slabs(image, bank.all_labels(), [3, 2, 1]))
    expected = predictor._factors([3, 2, 1, 1])
    assert len(seen) == 2 * predictor.windows(tuple(image.shape[1:])) > 8
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(torch.cat((first, second)), expected)


def test_a_single_window_has_the_factors_of_its_sample(make_plan_with_factors, make_model, draw):
    model = make_model(make_plan_with_factors())
    image = torch.randn(1, *model.plan.patch, generator=torch.Generator().manual_seed(1))
    in_turn = draw(SamplePredictor([model], SETTINGS), image)
    predictor = SamplePredictor([model], SETTINGS)
    predictor.in_turn = False
    for one, other in zip(in_turn, draw(predictor, image), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not torch.allclose(in_turn[0], in_turn[1], atol=1e-2)
