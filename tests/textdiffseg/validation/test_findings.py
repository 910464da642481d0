"""The labels that were found, and the time that the learning curve predicts for the others."""

import pytest

from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import summarise
from textdiffseg.training.log import EpochLog
from textdiffseg.validation.findings import LabelFinding, findings_of


def score(dice, reference):
    return LabelScores(dice=dice, nsd=None, hd95=None, volume_ml=1.0, reference_ml=reference)


def curve(*dice):
    """An epoch a minute with the Dice of the label `larynx`."""
    return [
        EpochLog(
            epoch=number, iteration=number + 1, learning_rate=0.1, losses={}, dice={"larynx": value}, latent_dice={},
            seconds=60.0 * (number + 1),
        )
        for number, value in enumerate(dice)
    ]  # fmt: skip


@pytest.fixture
def summary():
    """Larynx in two cases, found in none; cord in one of two, found there; neck in no case."""
    return summarise(
        [
            CaseScores(case="a", labels={"larynx": score(0.0, 3.0), "cord": score(0.7, 2.0), "neck": score(0.0, 0.0)}),
            CaseScores(case="b", labels={"larynx": score(0.05, 3.0), "cord": score(None, 0.0)}),
        ]
    )


def test_a_label_is_found_where_the_masks_overlap(summary):
    assert findings_of(summary, []) == (
        LabelFinding("larynx", cases=2, found=0, hours=None),
        LabelFinding("cord", cases=1, found=1, hours=None),
        LabelFinding("neck", cases=0, found=0, hours=None),
    )


def test_the_time_is_that_of_a_line_through_the_later_half_of_the_curve(summary):
    """.02 a minute: .5 after 25 minutes."""
    larynx = findings_of(summary, curve(0, 0, 0, 0, 0.10, 0.12, 0.14, 0.16))[0]
    assert larynx.hours == pytest.approx((8 + (0.5 - 0.16) / 0.02) / 60)


@pytest.mark.parametrize(
    "dice",
    [(), (0.1, 0.2), (0, 0, 0, 0, 0, 0), (0.1,) * 8, (0.3, 0.3, 0.3, 0.2, 0.1, 0.1), (0.6, 0.7, 0.8, 0.9)],
    ids=["no log", "too short", "nothing yet", "level", "falling", "good already"],
)
def test_a_curve_that_does_not_tell_gives_no_time(summary, dice):
    assert findings_of(summary, curve(*dice))[0].hours is None
