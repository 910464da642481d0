"""The forms change what their names state, in training only, and the verdict follows the bars."""

import copy
from types import SimpleNamespace

import pytest
import torch

from textdiffseg.data.batch import Batch, SampleKey
from textdiffseg.degradations import DEGRADATIONS


@pytest.fixture
def shifts(benchmark):
    return benchmark("shifts")


def test_skips_are_zeroed_for_a_share_of_the_samples_in_training_only(shifts, model, monkeypatch):
    monkeypatch.setattr(shifts, "SKIP_DROPOUT", 0.5)
    changed = copy.deepcopy(model)
    shifts.with_skip_dropout(SimpleNamespace(model=changed), seed=0)
    image = torch.randn(8, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z_i, skips = model.encode_image(image)
        same = changed.eval().encode_image(image)
        assert torch.equal(same[0], z_i)
        assert all(torch.equal(one, other) for one, other in zip(same[1], skips, strict=True))
        averaged = copy.deepcopy(changed).train()  # as at the end of an epoch
        z_dropped, dropped = averaged.encode_image(image)
    assert torch.equal(z_dropped, z_i)
    zeroed = [[not part.any() for part in skip] for skip in dropped]
    assert all(flags == zeroed[0] for flags in zeroed), "all skips of a sample"
    assert 0 < sum(zeroed[0]) < 8
    kept = [number for number, flag in enumerate(zeroed[0]) if not flag]
    assert torch.equal(dropped[0][kept], skips[0][kept])


def test_noise_is_added_to_each_patch_by_its_key(shifts):
    def epoch(epoch, iterations, start=0, subsets_from=0):
        keys = tuple(SampleKey(epoch, index) for index in range(64))
        yield Batch(torch.zeros(64, 1, 8, 8, 8), torch.zeros(64, 8, 8, 8), (), (), (), keys)

    run = SimpleNamespace(loader=SimpleNamespace(epoch=epoch))
    noisy = shifts.NoisyLoader(run.loader, seed=3)
    (batch,), (again,), (other,) = (list(noisy.epoch(number, 1)) for number in (0, 0, 1))
    assert torch.equal(batch.image, again.image)
    assert not torch.equal(batch.image, other.image)
    sds = batch.image.flatten(1).std(1)
    assert 0 < sds.min() < 0.15 < 0.85 < sds.max() < 1.1


def scores(shifts, undegraded, degraded, cases=4):
    """Equal Dice in all cases."""
    names = {shifts.UNDEGRADED: undegraded} | dict.fromkeys(DEGRADATIONS, degraded)
    return {name: {str(case): value for case in range(cases)} for name, value in names.items()}


def test_the_report_has_all_differences_and_the_claim_holds_where_all_bars_are_reached(shifts):
    unet, ours = scores(shifts, 0.90, 0.70), scores(shifts, 0.90, 0.73)
    forms = {name: [unet] for name in shifts.FORMS} | {"default": [ours]}
    found = shifts.report(forms, [0])
    difference = found["default_minus"]["unet"][shifts.DEGRADED]
    assert difference["mean"] == pytest.approx(0.03)
    assert difference["interval_95"] == pytest.approx([0.03, 0.03])
    assert found["dice"]["default"]["blur"] == pytest.approx(0.73)
    assert found["clauses"]["degraded, above noise augmentation"] == "holds"
    assert found["clauses"]["undegraded, not below unet"] == "cannot be told", "no difference, and one seed"
    assert found["verdict"] == "cannot be told"
    three = shifts.report({name: 3 * runs for name, runs in forms.items()}, [0, 1, 2])
    assert three["verdict"] == "holds"
    level = shifts.report({name: 3 * [ours] for name in forms}, [0, 1, 2])
    assert level["verdict"] == "fails"
    assert level["clauses"]["undegraded, not below unet"] == "holds"
