import pytest

from plans.errors import UserError
from textdiffseg.folds.sampling import (
    PredictionSettings,
    Sampling,
    Trial,
    choose,
    mask_settings,
    plain_sampling,
    pool,
    uncertainty_settings,
)


def row(steps, mirroring, dice):
    return Trial(steps=steps, samples=1, mirroring=mirroring, dice=dice, seconds=1.0)


def test_small_gains_go_to_the_cheaper_setting():
    assert choose([row(4, True, 0.9005), row(1, True, 0.9), row(1, False, 0.9)], 3) == row(1, False, 0.9)
    assert choose([row(1, False, 0.88), row(4, False, 0.9), row(1, True, 0.8995)], 3) == row(4, False, 0.9)
    assert choose([row(1, False, 0.88), row(8, False, 0.9), row(1, True, 0.8995)], 1) == row(8, False, 0.9)
    assert choose([row(0, False, 0.88), row(8, False, 0.9), row(0, True, 0.8995)], 1) == row(0, True, 0.8995)
    assert choose([row(4, False, None), row(1, False, None)], 3) == row(1, False, None)


def test_folds_are_pooled_by_their_cases():
    def sampling(cases, plain, mirrored):
        return Sampling(steps=1, mirroring=False, cases=cases, table=(row(1, False, plain), row(1, True, mirrored)))

    pooled = pool([sampling(1, 0.9, 0.8), sampling(3, 0.8, 0.9)], 3)
    assert pooled.mirroring
    assert [trial.dice for trial in pooled.table] == pytest.approx([0.825, 0.875])
    assert not pool([sampling(3, 0.9, 0.8), sampling(1, 0.8, 0.9)], 3).mirroring
    assert pool([Sampling(), Sampling()], 3) == Sampling()


@pytest.mark.parametrize("slow", [(), (row(1, False, 0.8),)])
def test_a_fold_without_time_for_all_trials_does_not_vote(slow):
    gains = Sampling(steps=1, mirroring=True, cases=2, table=(row(1, False, 0.8), row(1, True, 0.9)))
    late = Sampling(steps=1, mirroring=False, cases=2, table=slow)
    assert [pool(choices, 3).mirroring for choices in ([late, gains, gains], [gains, gains, late])] == [True, True]


def test_without_steps_or_samples_the_validation_s_choice_is_the_mask(plan):
    chosen = Sampling(mirroring=True)
    assert mask_settings(plan, chosen) == PredictionSettings(steps=0, samples=1, mirror_axes=plan.mirror_axes)
    assert mask_settings(plan, chosen, mirroring=False, seed=9) == PredictionSettings(seed=9)
    assert mask_settings(plan, Sampling(mirroring=False)).mirror_axes == ()


@pytest.mark.parametrize(
    ("given", "steps", "samples"),
    [
        ({"steps": 5}, 5, 1),
        ({"samples": 4}, 3, 4),  # the plan's steps
        ({"samples": 1}, 3, 1),
        ({"steps": 1, "samples": 5}, 1, 5),
    ],
)
def test_with_steps_or_samples_the_mask_is_the_mean_of_diffusion_samples(plan, given, steps, samples):
    assert plan.sample_steps == 3
    found = mask_settings(plan, Sampling(mirroring=False), **given)
    assert (found.steps, found.samples) == (steps, samples)


def test_fast_and_best_override_the_choice_of_validation(plan):
    table = (row(0, False, 0.9), row(0, True, 0.9005))
    sampling = Sampling(table=table)
    assert mask_settings(plan, sampling).mirror_axes == ()
    assert mask_settings(plan, sampling, effort="best") == PredictionSettings(mirror_axes=plan.mirror_axes)
    assert mask_settings(plan, sampling, effort="best", mirroring=False) == PredictionSettings()
    assert mask_settings(plan, Sampling(mirroring=True), effort="best").mirror_axes == plan.mirror_axes, "no table"
    assert mask_settings(plan, Sampling(mirroring=True), effort="fast") == PredictionSettings(overlap=0.375)


def test_the_publication_s_mask_is_a_sample(make_plan):
    published = make_plan("paper", latent={"level": 2, "channels": 1}, paper={"steps": 10})
    assert (published.mask_steps, published.sample_steps) == (10, 10)
    assert plain_sampling(published).steps == 10
    assert mask_settings(published, plain_sampling(published)).steps == 10
    assert mask_settings(published, plain_sampling(published), steps=4).steps == 4
    with pytest.raises(UserError, match="1000 time steps, found 1001"):
        mask_settings(published, Sampling(), steps=1001)


def test_uncertainty_takes_the_plan_s_steps_and_at_least_eight_samples(plan):
    masks = PredictionSettings(steps=0, samples=2, mirror_axes=(0, 2), overlap=0.25, seed=3)
    assert uncertainty_settings(plan, masks) == PredictionSettings(steps=3, samples=8, overlap=0.25, seed=3)
    more = PredictionSettings(steps=10, samples=32)
    assert uncertainty_settings(plan, more) == more


def test_samples_and_views_add_to_the_passes_of_a_window():
    assert PredictionSettings().passes == pytest.approx(1)
    assert PredictionSettings(mirror_axes=(0, 1, 2)).passes == pytest.approx(8)
    one, more = PredictionSettings(steps=8).passes, PredictionSettings(steps=8, samples=4).passes
    assert 1 < one < more < 4 * one


def test_unet_has_no_steps_and_needs_two_folds_for_uncertainty(make_plan):
    unet = make_plan("unet")
    for given in ({"steps": 4}, {"samples": 2}):
        with pytest.raises(UserError, match="no diffusion"):
            mask_settings(unet, Sampling(), **given)
    masks = mask_settings(unet, Sampling())
    with pytest.raises(UserError, match="one fold"):
        uncertainty_settings(unet, masks)
    assert uncertainty_settings(unet, masks, folds=2) == masks
