import pytest

from plans.errors import UserError
from textdiffseg.folds.sampling import Sampling, Settings, Trial, choose, pool, settings_for, settings_of_uncertainty


def row(steps, mirroring, dice):
    return Trial(steps=steps, samples=1, mirroring=mirroring, dice=dice, seconds=1.0)


def test_small_gains_go_to_the_cheaper_setting():
    assert choose([row(4, True, 0.9005), row(1, True, 0.9), row(1, False, 0.9)], 3) == row(1, False, 0.9)
    assert choose([row(1, False, 0.88), row(4, False, 0.9), row(1, True, 0.8995)], 3) == row(4, False, 0.9)
    assert choose([row(1, False, 0.88), row(4, False, 0.9), row(1, True, 0.8995)], 1) == row(1, True, 0.8995)
    assert choose([row(4, False, None), row(1, False, None)], 3) == row(1, False, None)


def test_a_choice_has_the_seconds_per_case():
    table = (row(1, False, 0.8), row(1, True, 0.9).model_copy(update={"seconds": 8.0}))
    assert Sampling(steps=1, mirroring=True, table=table).seconds == 8.0
    assert Sampling().seconds == 0


def test_folds_are_pooled_by_their_cases():
    def sampling(cases, plain, mirrored):
        return Sampling(steps=1, mirroring=False, cases=cases, table=(row(1, False, plain), row(1, True, mirrored)))

    pooled = pool([sampling(1, 0.9, 0.8), sampling(3, 0.8, 0.9)], 3)
    assert pooled.mirroring
    assert [trial.dice for trial in pooled.table] == pytest.approx([0.825, 0.875])
    assert not pool([sampling(3, 0.9, 0.8), sampling(1, 0.8, 0.9)], 3).mirroring
    assert pool([Sampling(), Sampling()], 3) == Sampling()


def test_the_user_s_settings_override_the_validation_s(plan):
    chosen = Sampling(steps=4, samples=2, mirroring=True)
    assert settings_for(plan, chosen) == Settings(steps=4, samples=2, mirror_axes=plan.mirror_axes)
    assert settings_for(plan, chosen, steps=1, samples=5, mirroring=False, seed=9) == Settings(
        steps=1, samples=5, seed=9
    )
    assert settings_for(plan, Sampling(mirroring=False)).mirror_axes == ()


def test_uncertainty_takes_at_least_four_steps_and_eight_samples(plan):
    masks = Settings(steps=1, samples=2, mirror_axes=(0, 2), overlap=0.25, seed=3)
    assert settings_of_uncertainty(plan, masks) == Settings(steps=4, samples=8, overlap=0.25, seed=3)
    more = Settings(steps=10, samples=32)
    assert settings_of_uncertainty(plan, more) == more


def test_more_steps_than_time_steps_are_refused(plan):
    with pytest.raises(UserError, match="1000 time steps"):
        settings_for(plan, Sampling(), steps=1001)


def test_unet_has_no_steps_and_needs_two_folds_for_uncertainty(make_plan):
    unet = make_plan("unet")
    with pytest.raises(UserError, match="no diffusion"):
        settings_for(unet, Sampling(), steps=4)
    masks = settings_for(unet, Sampling())
    with pytest.raises(UserError, match="one fold"):
        settings_of_uncertainty(unet, masks)
    assert settings_of_uncertainty(unet, masks, folds=2) == masks
