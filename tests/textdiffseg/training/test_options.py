"""Options of a training are checked where they are made: a line names the option, its rule and the value."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import textdiffseg as tds
from plans.records import MAX_INTEGER, MAX_NUMBER


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, found 0."),
        ({"epochs": -1}, "epochs: expected a whole number of at least 1, found -1."),
        ({"epochs": 1.5}, "epochs: expected a whole number of at least 1, found 1.5."),
        ({"epochs": "5"}, "epochs: expected a whole number of at least 1, found '5'."),
        ({"epochs": True}, "epochs: expected a whole number of at least 1, found True."),
        ({"epochs": 2**60}, f"epochs: expected a whole number of at most {MAX_INTEGER}, found {2**60}."),
        ({"workers": -1}, "workers: expected a whole number of at least 0, found -1."),
        ({"seed": 0.5}, "seed: expected a whole number of at least 0, found 0.5."),
        ({"max_minutes": 0}, "max_minutes: expected a number above 0 and at most 5.7e+36, found 0."),
        ({"max_minutes": "5"}, "max_minutes: expected a number above 0 and at most 5.7e+36, found '5'."),
        ({"max_minutes": float("nan")}, "max_minutes: expected a number above 0 and at most 5.7e+36, found nan."),
        ({"max_minutes": float("inf")}, "max_minutes: expected a number above 0 and at most 5.7e+36, found inf."),
        ({"max_minutes": 10**400}, f"max_minutes: expected a number above 0 and at most 5.7e+36, found 1{'0' * 79}."),
        ({"device": "gpu"}, "device: expected one of 'cpu', 'cuda', found 'gpu'."),
        ({"track": "wandb"}, "track: expected one of 'tensorboard', found 'wandb'."),
        ({"init_from": 3}, "Expected a path, found 3."),
        (
            {"epochs": 500, "max_minutes": 5},
            "epochs and max_minutes: each sets the length of the training; found 500 and 5. Give one of them.",
        ),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused(options, line):
    with pytest.raises(tds.UserError) as error:
        tds.TrainingOptions(**options)
    assert error.value.lines == (line,)


def test_values_that_mean_the_same_are_kept_in_one_form():
    given = tds.TrainingOptions(epochs=np.int64(3), workers=np.uint8(0), seed=np.int32(7), init_from="results/default")
    assert given == tds.TrainingOptions(epochs=3, workers=0, seed=7, init_from=Path("results/default"))
    assert {type(given.epochs), type(given.workers), type(given.seed)} == {int}
    for minutes in (np.float32(0.5), Fraction(1, 2), 0.5):
        assert type(tds.TrainingOptions(max_minutes=minutes).max_minutes) is float
    assert tds.TrainingOptions(max_minutes=MAX_NUMBER / 60, epochs=None).epochs is None
