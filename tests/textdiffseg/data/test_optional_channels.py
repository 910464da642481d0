"""Channel dropout in training, and stored cases that lack a channel."""

import numpy as np
import pytest
import torch

from plans.network_plan import OverviewPlan
from textdiffseg.data.batch import SampleKey
from textdiffseg.data.checks import preprocessing_settings
from textdiffseg.data.samples import TrainingSamples, ValidationPatches
from textdiffseg.data.sampling import draw_dropped

LABELS = np.zeros((16, 16, 16), np.int16)
LABELS[4:9, 5:12, 3:8] = 1


@pytest.fixture
def plan_of(make_plan):
    def of(*optional, scheme="zscore"):
        channels = [{"name": f"c{n}", "scheme": scheme, "optional": n in optional} for n in range(3)]
        return make_plan(channels=channels, batch=1)

    return of


def kept(sample) -> tuple[int, ...]:
    """The channels of a sample that are not 0 everywhere."""
    return tuple(n for n, channel in enumerate(sample.image) if channel.any())


def drawn(folder, plan, case="a", count=200):
    samples = TrainingSamples(folder, [case], plan, (1, 1), 0)
    return [samples[SampleKey(0, index)] for index in range(count)]


@pytest.fixture
def case_of(make_case, tmp_path):
    """Store case `a`, whose channels in `missing` are 0."""

    def of(*missing):
        image = np.random.default_rng(1).normal(5, 1, (3, *LABELS.shape)).astype(np.float32)
        image[list(missing)] = 0
        make_case(tmp_path, "a", image, LABELS)
        return tmp_path

    return of


def test_whole_optional_channels_are_dropped(case_of, plan_of):
    found = [kept(sample) for sample in drawn(case_of(), plan_of(1, 2))]
    assert set(found) == {(0, 1, 2), (0, 1), (0, 2), (0,)}
    for channel in (1, 2):  # 1/4 of 200
        assert 30 <= sum(channel not in one for one in found) <= 70


def test_a_data_set_without_optional_channels_draws_as_before(case_of, plan_of):
    """The other draws of a sample do not depend on the field either."""
    folder = case_of()
    before, after = drawn(folder, plan_of(), count=40), drawn(folder, plan_of(2), count=40)
    for one, other in zip(before, after, strict=True):
        assert kept(one) == (0, 1, 2)
        assert torch.equal(one.labels, other.labels)
        assert one.query == other.query
        assert all(torch.equal(one.image[channel], other.image[channel]) for channel in kept(other))


def test_one_channel_always_stays(case_of, plan_of):
    found = {kept(sample) for sample in drawn(case_of(), plan_of(0, 1, 2))}
    assert () not in found
    assert {(0,), (1,), (2,)} <= found
    found = {kept(sample) for sample in drawn(case_of(1), plan_of(0, 1, 2))}
    assert found == {(0,), (2,), (0, 2)}, "a missing channel does not count as one that stays"


def test_a_missing_channel_stays_0_under_augmentation(case_of, plan_of):
    """Noise and contrast would change it. In prediction it is exactly 0."""
    assert all(1 not in kept(sample) for sample in drawn(case_of(1), plan_of(1)))


def test_validation_drops_nothing(case_of, plan_of):
    (batch,) = ValidationPatches(case_of(), ["a"], plan_of(0, 1, 2), 0, 1)
    assert batch.image.flatten(2).any(2).all()


def test_a_sample_is_a_function_of_its_key(case_of, plan_of):
    folder, plan = case_of(), plan_of(0, 1, 2)
    assert [kept(one) for one in drawn(folder, plan, count=20)] == [kept(one) for one in drawn(folder, plan, count=20)]


def test_no_draw_without_an_optional_channel_that_is_there():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert draw_dropped(rng, (), (0, 1)) == draw_dropped(rng, (1,), (0,)) == ()
    assert rng.bit_generator.state == before


def test_stored_cases_do_not_depend_on_the_field(plan_of):
    assert preprocessing_settings(plan_of()) == preprocessing_settings(plan_of(1))


def test_a_dropped_channel_is_dropped_from_the_overview_too(case_of, plan_of):
    plan = plan_of(1, 2).model_copy(update={"overview": OverviewPlan(edge=8, widths=(4, 8))})
    for sample in drawn(case_of(), plan, count=60):
        seen = tuple(n for n, channel in enumerate(sample.overview.image[0]) if channel.any())
        assert seen == kept(sample)
