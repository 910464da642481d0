"""Which boxes of a volume lie near what was found on a coarse grid."""

import numpy as np
import pytest

from textdiffseg.inference.region import MARGIN, Region
from textdiffseg.inference.tiling import tile


def region(shape, *voxels) -> Region:
    found = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        found[voxel] = True
    return Region(found)


def along_d(start, stop):
    return (slice(start, stop), slice(0, 20), slice(0, 20))


@pytest.mark.parametrize(
    ("start", "stop", "touches"),
    [(0, 2, False), (0, 3, True), (19, 30, True), (20, 30, False), (10, 12, True), (-9, 3, True), (-9, 2, False)],
)
def test_a_box_touches_what_lies_within_the_margin_of_four_coarse_voxels(start, stop, touches):
    """Coarse voxel 5 of 10 is 10 and 11 of 20. The margin is 4 coarse voxels: 2 to 19."""
    assert MARGIN == 4
    assert region((10, 10, 10), (5, 5, 5)).touches(along_d(start, stop), (20, 20, 20)) is touches


def test_axes_have_their_own_factor():
    one = region((40, 10, 10), (20, 0, 0))
    assert one.touches((slice(0, 9), slice(0, 1), slice(0, 1)), (20, 100, 100))
    assert not one.touches((slice(0, 8), slice(0, 1), slice(0, 1)), (20, 100, 100))
    assert not one.touches((slice(0, 9), slice(50, 99), slice(0, 1)), (20, 100, 100))


def test_a_tiling_near_a_region_has_its_windows_in_order():
    whole = tile((30, 8, 60), (8, 16, 8), (2, 4, 4))
    assert whole.near(None) is whole
    assert whole.near(region((30, 8, 60))).starts == ()
    assert whole.near(Region(np.ones((5, 5, 5), dtype=bool))) == whole
    near = whole.near(region((30, 8, 60), (0, 0, 59)))
    kept = [start for start in whole.starts if start[0] < 5 and start[2] + 8 > 55]
    assert list(near.starts) == kept
    assert 0 < len(kept) < len(whole.starts)


def test_padding_before_an_axis_is_not_part_of_the_volume():
    """An axis of 2 voxels in a window of 16 is padded by 7 on each side, so the window begins at voxel -7."""
    padded = tile((2, 8, 8), (16, 8, 8), (2, 4, 4))
    assert padded.before == (7, 0, 0)
    assert len(padded.near(region((2, 8, 8), (1, 0, 0))).starts) == 1
