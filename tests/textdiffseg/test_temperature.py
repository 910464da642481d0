"""Temperature scaling changes confidence and keeps the order of probabilities."""

import numpy as np
import pytest

from textdiffseg.temperature import temper, temper_overlapping


def draw(seed, count=20_000, sharpness=1.0):
    """Probabilities whose logarithms are `sharpness` times those of a Dirichlet distribution."""
    p = np.random.default_rng(seed).dirichlet((2.0, 1.0, 1.0), count).T.astype(np.float32)
    return temper(p, 1 / sharpness)


@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 3.0, 8.0])
def test_a_temperature_keeps_the_winner_and_the_sum(temperature):
    p = draw(0, sharpness=3)
    p[:, :2] = np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32).T
    warmed = temper(p, temperature)
    assert (warmed.argmax(0) == p.argmax(0)).all()
    assert warmed.sum(0) == pytest.approx(1, abs=1e-6)
    assert warmed[:, :2] == pytest.approx(p[:, :2])


def test_a_temperature_above_one_reduces_confidence_and_one_changes_nothing():
    p = draw(0)
    assert temper(p, 1.0) == pytest.approx(p, abs=1e-6)
    assert (temper(p, 2.0).max(0) <= p.max(0) + 1e-6).all()
    assert temper(temper(p, 2.0), 0.5) == pytest.approx(p, abs=1e-4)
    copy = p.copy()
    assert temper(copy, 2.0, out=copy) is copy
    assert copy == pytest.approx(temper(p, 2.0))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_each_overlapping_label_s_logit_is_divided_by_the_temperature(temperature):
    p = np.random.default_rng(0).uniform(0.1, 0.9, (4, 50)).astype(np.float32)
    p[1, :2] = 0, 1
    warmed = p.copy()
    temper_overlapping(warmed, temperature)
    before, after = (np.log(q[1:, 2:] / (1 - q[1:, 2:])) for q in (p, warmed))
    assert temperature * after == pytest.approx(before, rel=1e-2, abs=1e-3)
    assert ((warmed[1:] > 0.5) == (p[1:] > 0.5)).all()
    assert warmed[1, :2].tolist() == [0, 1]
    assert (warmed[0] == 1 - warmed[1:].max(0)).all()
    alone = p[:2].copy()
    alone[0] = 1 - alone[1]
    expected = temper(alone, temperature)
    temper_overlapping(alone, temperature)
    assert alone == pytest.approx(expected, abs=1e-6), "a single label equals a class of a softmax"
