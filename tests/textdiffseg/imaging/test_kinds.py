"""CT is recognised by its air and its tissue."""

import numpy as np
import pytest

from textdiffseg.imaging.kinds import kind_of


def scan(outside, inside):
    image = np.full((6, 20, 20), float(outside))
    image[:, 5:15, 5:15] = np.random.default_rng(0).normal(inside, 20, (6, 10, 10))
    return image


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (scan(-1000, 40), "CT"),
        (scan(-1024, -80), "CT"),
        (scan(0, 300), "MRI"),
        (scan(0, 1040), "MRI"),
        (scan(-1000, 900), "MRI"),
        (scan(40, 60), "MRI"),
    ],
)
def test_kinds(image, kind):
    assert kind_of(image) == kind
