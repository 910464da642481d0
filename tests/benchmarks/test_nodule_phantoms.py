"""Phantoms whose metastasis only the text names."""

import numpy as np
import pytest


@pytest.fixture
def nodules(benchmark):
    return benchmark("nodule_phantoms")


def test_the_text_names_the_nodule_of_the_label_map(nodules):
    seen = set()
    for index in range(40):
        phantom = nodules.draw_phantom(0, index)
        bright = np.argwhere(phantom.image > 140)
        both, named = bright.mean(0), np.argwhere(phantom.labels == 1).mean(0)
        towards_end = named[phantom.axis] > both[phantom.axis]
        side = nodules.SIDES[phantom.axis][0 if towards_end else 1]
        assert f" {side} " in phantom.text
        seen.add(side)
    assert seen == {"upper", "lower", "left", "right"}


def test_upper_is_superior_and_left_is_the_patients_left(nodules):
    affine = nodules.draw_phantom(0, 0).geometry.affine  # index (d, h, w) -> LPS: x left, y posterior, z superior
    assert affine[2, 0] > 0
    assert affine[0, 2] > 0
