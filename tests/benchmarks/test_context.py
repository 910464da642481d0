"""The phantoms and verdicts of benchmarks/context.py."""

import numpy as np
import pytest


@pytest.fixture
def look_alikes(benchmark):
    return benchmark("look_alikes")


def test_no_window_that_holds_a_nodule_s_centre_reaches_the_marker(look_alikes):
    """So a window alone cannot know the names."""
    for index in range(20):
        image, labels = look_alikes.draw(0, index)
        marker = np.argwhere(image > 260)[:, 2]
        for value in (1, 2):
            centre = np.argwhere(labels == value)[:, 2].mean()
            gap = np.abs(marker - centre).min()
            assert gap >= 26, "a nodule in the middle of a window is 16 voxels from the window's end"
    assert look_alikes.SHAPE[2] == 3 * look_alikes.PATCH[2]


def test_the_proximal_nodule_is_nearer_the_marker_and_the_nodules_look_alike(look_alikes):
    ends = set()
    for index in range(20):
        image, labels = look_alikes.draw(0, index)
        marker = np.argwhere(image > 260)[:, 2].mean()
        proximal, distal = (np.argwhere(labels == value)[:, 2].mean() for value in (1, 2))
        assert abs(proximal - marker) < abs(distal - marker)
        assert image[labels == 1].mean() == pytest.approx(image[labels == 2].mean(), abs=5)
        ends.add(bool(marker < 48))
    assert ends == {True, False}


def test_a_nodule_has_the_right_name_if_most_of_its_found_voxels_have_it(look_alikes):
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[3] = 1, 2
    found = labels.copy()
    assert look_alikes.told_apart(found, labels) == 1
    found[3, :3] = 1
    assert look_alikes.told_apart(found, labels) == 0.5
    assert look_alikes.told_apart(np.zeros_like(labels), labels) == 0, "a nodule that is not found has no name"


def test_verdicts(benchmark):
    def found(overview, window, guided, seconds):
        rights = {"overview": overview, "window": window, "guided": guided, "low": guided}
        times = {"overview": seconds}
        return [
            {name: {"right_names": right, "seconds_a_scan": times.get(name, 1.0)} for name, right in rights.items()}
        ]

    judged = benchmark("context").judged
    assert set(judged(found(0.96, 0.5, 0.9, 1.05))["verdict"].values()) == {"holds"}
    assert set(judged(found(0.94, 0.8, 1.0, 1.2))["verdict"].values()) == {"fails"}
