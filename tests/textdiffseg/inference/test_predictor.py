import random

import pytest
import torch

from plans.errors import UserError
from textdiffseg.diffusion.ddim import sample
from textdiffseg.diffusion.noise import smooth_noise
from textdiffseg.diffusion.schedule import schedule_of
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor, subsets
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.inference.windows import joined
from textdiffseg.randomness import torch_generator
from textdiffseg.readout import OverlappingReadout
from textdiffseg.segmenter import MaskSampler, mask_features

SETTINGS = PredictionSettings(steps=2, samples=2, mirror_axes=(2,), seed=3)


@pytest.fixture(scope="module")
def models(plan, make_model):
    return [make_model(plan, seed) for seed in (0, 1)]


def test_probabilities_are_of_the_image_s_shape_and_add_up_to_one(models, bank, image):
    p = Predictor(models, SETTINGS).predict_image(image, bank.all_labels()).probabilities
    assert p.shape == (3, *image.shape[1:])
    torch.testing.assert_close(p.sum(0), torch.ones(image.shape[1:]))


@pytest.mark.parametrize("batch", [1, 3])
def test_window_order_changes_no_bit(models, bank, image, batch):
    predictor = Predictor(models, SETTINGS, batch=batch)
    seen = []
    expected = predictor.predict_image(
        image, bank.all_labels(), uncertainty=True, progress=lambda _, total: seen.append(total)
    )
    order = list(range(seen[0]))
    random.Random(0).shuffle(order)
    assert order != sorted(order)
    found = predictor.predict_image(image, bank.all_labels(), uncertainty=True, order=order)
    assert torch.equal(found.probabilities, expected.probabilities)
    assert torch.equal(found.between_samples, expected.between_samples)
    assert torch.equal(found.between_folds, expected.between_folds)


def test_batch_sizes_agree(models, bank, image):
    one, four = (
        Predictor(models, SETTINGS, batch=batch).predict_image(image, bank.all_labels()).probabilities
        for batch in (1, 4)
    )
    torch.testing.assert_close(one, four, atol=1e-5, rtol=0)


def test_an_ensemble_is_the_mean_of_its_folds(models, bank, image):
    both, first, second = (
        Predictor(some, SETTINGS).predict_image(image, bank.all_labels()).probabilities
        for some in (models, models[:1], models[1:])
    )
    torch.testing.assert_close(both, (first + second) / 2)
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_image_is_encoded_once_a_window_and_view_whatever_the_samples(models, bank, image):
    model, calls = models[0], {"encode": 0, "denoise": 0}
    hooks = [
        model.image_encoder.register_forward_hook(lambda *_: calls.update(encode=calls["encode"] + 1)),
        model.denoiser.register_forward_hook(lambda *_: calls.update(denoise=calls["denoise"] + 1)),
    ]
    windows = []
    settings = PredictionSettings(steps=3, samples=4, mirror_axes=(0, 2))
    Predictor([model], settings).predict_image(
        image, bank.all_labels(), progress=lambda _, total: windows.append(total)
    )
    for hook in hooks:
        hook.remove()
    assert calls == {"encode": 4 * windows[0], "denoise": 3 * 4 * 4 * windows[0]}


def test_samples_differ_by_noise_alone_and_the_seed_decides(models, bank, image):
    def predict(**settings):
        return (
            Predictor(models[:1], PredictionSettings(**settings)).predict_image(image, bank.all_labels()).probabilities
        )

    assert torch.equal(predict(seed=1, steps=2), predict(seed=1, steps=2))
    assert not torch.allclose(predict(seed=1, steps=2), predict(seed=2, steps=2), atol=1e-4)
    assert torch.equal(predict(seed=1), predict(seed=2)), "the mask reads no noise"


def test_mirroring_makes_an_equivariant_prediction_of_a_deterministic_model(make_plan, make_model, bank, image):
    model = make_model(make_plan("unet"))
    image = image[:, :, :16, :16]  # one window along the mirrored axes, so that flipping keeps the windows
    predictor = Predictor([model], PredictionSettings(mirror_axes=(1, 2)))
    p = predictor.predict_image(image, bank.all_labels()).probabilities
    flipped = predictor.predict_image(image.flip(3), bank.all_labels()).probabilities.flip(3)
    torch.testing.assert_close(p, flipped, atol=1e-5, rtol=0)


def test_a_volume_of_one_patch_equals_the_model_itself(models, bank, plan):
    image = torch.randn(1, *plan.patch, generator=torch.Generator().manual_seed(1))
    model, queries = models[0], bank.all_labels()
    p = Predictor([model], PredictionSettings()).predict_image(image, queries).probabilities
    sampled = Predictor([model], PredictionSettings(seed=4, steps=2)).predict_image(image, queries).probabilities
    with torch.inference_mode():
        mask = mask_features(model, image[None], queries)
        posterior = model.posterior(mask.logits.softmax(1)[:, 1:], queries)
        noise = smooth_noise((plan.latent.channels, *plan.latent_shape), torch_generator(4, 0))[None]
        conditions = (posterior.mean, mask.on_latent_grid)
        r = sample(lambda r_t, t: model.denoise(r_t, t, conditions), noise, schedule_of(plan), 2)
        torch.testing.assert_close(p, mask.logits.softmax(1)[0])
        z = posterior.latent(r, model.spread)
        torch.testing.assert_close(
            sampled, model.decode_sample(z, posterior.mean, mask.logits, mask.skips, queries).softmax(1)[0]
        )


def test_unet_has_no_samples(make_plan, make_model):
    unet = make_model(make_plan("unet"))
    for settings in (PredictionSettings(steps=2), PredictionSettings(samples=2)):
        with pytest.raises(ValueError, match="no diffusion"):
            Predictor([unet], settings)
    Predictor([unet], PredictionSettings())


def test_samples_of_a_model_whose_denoiser_is_not_trained_are_refused(plan, make_model):
    trained, untrained = make_model(plan), make_model(plan, 1)
    untrained.spread.zero_()
    with pytest.raises(UserError, match="A fold of this model has no samples yet: its sampler learns in the last"):
        Predictor([trained, untrained], PredictionSettings(steps=2))
    Predictor([trained, untrained], PredictionSettings())
    Predictor([trained], PredictionSettings(steps=2))


def test_views_are_all_subsets():
    assert subsets((2, 0)) == [(), (0,), (2,), (0, 2)]
    assert len(subsets((0, 1, 2))) == 8


def test_labels_that_overlap_have_probabilities_of_their_own(plan, make_model, bank, image):
    nested = [make_model(plan.model_copy(update={"regions": ((3, 7), (3,))}), seed) for seed in (0, 1)]
    predictor = Predictor(nested, SETTINGS)
    p = predictor.predict_image(image, bank.all_labels()).probabilities
    assert p.shape == (3, *image.shape[1:])
    assert 0 <= p.min() <= p.max() <= 1
    assert (p[1:].sum(0) > 1).any()


def test_windows_that_are_sure_make_no_more_than_certain(plan, make_model, bank, image, monkeypatch):
    nested = make_model(plan.model_copy(update={"regions": ((3, 7), (3,))}))
    monkeypatch.setattr(OverlappingReadout, "probabilities", lambda self, logits: torch.ones_like(logits))
    p = Predictor([nested], PredictionSettings(overlap=0.7)).predict_image(image, bank.all_labels()).probabilities
    assert p.min() > 0.999
    assert p.max() <= 1, "1 - p is a probability too"


def test_samples_of_labels_that_overlap_disagree(plan, make_model, bank):
    models = [make_model(plan.model_copy(update={"regions": ((3, 7), (3,))}), seed) for seed in (0, 1)]
    image = torch.randn(1, *plan.patch, generator=torch.Generator().manual_seed(1))
    predictor, queries = Predictor(models, SETTINGS), bank.all_labels()
    found = predictor.predict_image(image, queries, uncertainty=True)
    assert torch.equal(found.probabilities, predictor.predict_image(image, queries).probabilities)
    for part in (found.between_samples, found.between_folds):
        assert part.shape == image.shape[1:]
        assert 1e-5 < part.max() < 2, "at most a bit a label"


@pytest.mark.parametrize("axes", [(), (0, 2)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_output_that_is_not_finite_ends_the_scan_instead_of_being_background(
    plan, make_model, bank, image, value, axes
):
    """One weight is enough; softmax would make probabilities of an infinite logit."""
    model = make_model(plan)
    predictor = Predictor([model], PredictionSettings(mirror_axes=axes))
    plain = predictor.segmenters[0].logits

    def spoiled(*rest):
        for logits in plain(*rest):
            logits[0, 1, 3, 3, 3] = value
            yield logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(predictor.segmenters[0]), "logits", lambda self, *rest: spoiled(*rest))
        with pytest.raises(UserError, match="network's output is not finite") as error:
            predictor.predict_image(image, bank.all_labels())
    assert len(error.value.lines) == 1


def test_samples_have_opposite_factors_two_by_two(make_plan_with_factors, make_model):
    model = make_model(make_plan_with_factors())
    predictor = Predictor([model], PredictionSettings(steps=2, samples=6, seed=3))
    factors = predictor._factors(range(600))
    assert factors.shape == (600, 3)
    assert torch.equal(factors[::2], -factors[1::2])
    assert factors[::2].std() == pytest.approx(1, abs=0.05)
    assert torch.equal(predictor._factors([5, 4]), factors[[5, 4]])
    other = Predictor([model], PredictionSettings(steps=2, samples=6, seed=4))._factors(range(2))
    assert not torch.equal(other, factors[:2])


def test_all_windows_of_a_sample_have_its_factors(make_plan_with_factors, make_model, bank, image, monkeypatch):
    model, seen = make_model(make_plan_with_factors()), []
    given = MaskSampler.given
    monkeypatch.setattr(MaskSampler, "given", lambda self, w: seen.append(w) or given(self, w))
    predictor = Predictor([model], PredictionSettings(steps=2, samples=2, seed=3), batch=1)
    predictor.predict_image(image, bank.all_labels())
    assert len(seen) == 2 * predictor.windows(tuple(image.shape[1:])) > 8
    for number, w in enumerate(seen):
        assert torch.equal(w[0], predictor._factors(range(2))[number % 2])


@pytest.mark.parametrize("old_first", [True, False])
def test_folds_with_and_without_factors_draw_samples_together(
    make_plan, make_plan_with_factors, make_model, bank, image, old_first
):
    """As after an update in the middle of the folds of a model."""
    old, new = make_model(make_plan()), make_model(make_plan_with_factors())
    folds = [old, new] if old_first else [new, old]
    settings = PredictionSettings(steps=2, samples=4, seed=3)
    together = Predictor(folds, settings).predict_image(image, bank.all_labels()).probabilities
    alone = [Predictor([fold], settings).predict_image(image, bank.all_labels()).probabilities for fold in folds]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
    slabs = zip(*SamplePredictor(folds, settings).sample_slabs(image, bank.all_labels(), range(4)), strict=True)
    samples = [joined(of_sample, tuple(image.shape[1:])).probabilities for of_sample in slabs]
    for number, fold in enumerate((folds[0], folds[0], folds[1], folds[1])):
        (slab,) = zip(*SamplePredictor([fold], settings).sample_slabs(image, bank.all_labels(), [number]), strict=True)
        torch.testing.assert_close(samples[number], joined(slab, tuple(image.shape[1:])).probabilities)
