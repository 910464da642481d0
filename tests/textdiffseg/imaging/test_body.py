"""The body is found whatever lies around it, and a doubtful scan is kept whole."""

import itertools

import numpy as np
import pytest

from textdiffseg.imaging import body
from textdiffseg.imaging.body import body_box

SHAPE, SPACING = (40, 128, 128), (5.0, 2.0, 2.0)
MARGIN = 10 + 2  # voxels in the plane: 20 mm, and one voxel of the coarse copy


def ellipse(centre, radii) -> np.ndarray:
    """A mask (H, W)."""
    h, w = np.ogrid[: SHAPE[1], : SHAPE[2]]
    return ((h - centre[0]) / radii[0]) ** 2 + ((w - centre[1]) / radii[1]) ** 2 < 1


def trunk(**places) -> np.ndarray:
    """A scan in HU: noisy air, and an ellipse of fat and muscle with a lung. Along z it reaches both ends."""
    image = np.random.default_rng(0).normal(-1000, 30, SHAPE)
    at = places or {"centre": (60, 64), "radii": (24, 36)}
    image[:, ellipse(**at)] = -90
    image[:, ellipse(at["centre"], tuple(radius - 3 for radius in at["radii"]))] = 40
    image[:, ellipse(at["centre"], tuple(radius / 3 for radius in at["radii"]))] = -850
    return image.astype(np.float32)


def holds(box, low, high) -> bool:
    """Whether the box contains rows and columns `low` to `high`."""
    return all(side.start <= a and b <= side.stop for side, a, b in zip(box[1:], low, high, strict=True))


def test_the_box_is_the_body_s_with_a_margin_of_20_mm():
    box = body_box(trunk(), SPACING)
    assert box[0] == slice(0, SHAPE[0])
    for side, (low, high) in zip(box[1:], ((37, 84), (29, 100)), strict=True):
        assert low - MARGIN - 2 <= side.start <= low - 10
        assert high + 10 <= side.stop <= high + MARGIN + 2


@pytest.mark.parametrize("padding", [-1024, -2000, -3024, 0, 4095])
def test_padding_around_a_circular_field_of_view_is_air(padding):
    image = trunk()
    image[:, ~ellipse((63.5, 63.5), (64, 64))] = padding
    assert body_box(image, SPACING) == body_box(trunk(), SPACING)


def test_values_that_were_shifted_down_still_show_the_body():
    assert body_box(trunk() - 1024, SPACING) == body_box(trunk(), SPACING)


def whole(image) -> bool:
    box = body_box(image.astype(np.float32), SPACING)
    return box is None or box == tuple(slice(0, size) for size in SHAPE)


def test_a_scan_without_air_is_kept_whole():
    assert whole(np.random.default_rng(0).normal(40, 20, SHAPE))
    assert whole(np.full(SHAPE, 40.0))
    assert whole(np.where(trunk() > -500, 40, -90))  # only fat around muscle
    assert whole(trunk() + 1024), "values without an offset"
    assert whole(np.zeros(SHAPE))
    assert whole(np.full(SHAPE, -1000.0))


def test_a_table_and_noise_do_not_count_but_both_legs_and_an_arm_do():
    image = trunk(centre=(50, 40), radii=(20, 20))
    rng = np.random.default_rng(1)
    image[rng.random(SHAPE) < 0.001] = 300
    image[:, 118:120, 10:118] = 100
    box = body_box(image, SPACING)
    assert box[1].stop < 100
    assert box[2].stop < 90
    image[:, ellipse((50, 110), (12, 12))] = 30
    assert holds(body_box(image, SPACING), (30, 20), (70, 122))
    image[5:15, ellipse((12, 64), (7, 7))] = 30  # a part of an arm
    assert holds(body_box(image, SPACING), (5, 20), (70, 122))


def test_a_small_object_beside_the_body_does_not_count_though_it_is_thick():
    image = trunk()
    image[10:15, 112:124, 4:16] = 300
    assert body_box(image, SPACING) == body_box(trunk(), SPACING)
    image[:, 112:124, 4:16] = 300  # as long as the body: it may be an arm
    assert holds(body_box(image, SPACING), (37, 4), (124, 100))


def test_the_body_may_touch_every_face():
    image = trunk(centre=(20, 64), radii=(30, 70))
    box = body_box(image, SPACING)
    assert box[1].start == box[2].start == 0
    assert box[2].stop == SHAPE[2]
    assert 60 <= box[1].stop <= 66


def test_a_scan_of_few_slices_is_not_worn_down_from_its_ends():
    box = body_box(trunk()[:2], (2.0, 2.0, 2.0))
    assert box[0] == slice(0, 2)
    assert box[1:] == body_box(trunk(), (2.0, 2.0, 2.0))[1:]


def test_a_part_in_a_single_thick_slice_counts():
    image, thick = trunk(), (10.0, 2.0, 2.0)
    image[7, ellipse((112, 64), (12, 30))] = 30
    assert body_box(image, thick)[1].stop >= 124
    image[7] = trunk()[7]
    assert body_box(image, thick)[1].stop < 112


@pytest.mark.parametrize("turn", list(itertools.permutations(range(3))))
def test_the_order_of_the_axes_changes_nothing(turn):
    box = body_box(trunk().transpose(turn), tuple(SPACING[axis] for axis in turn))
    assert tuple(box[turn.index(axis)] for axis in range(3)) == body_box(trunk(), SPACING)


def test_a_fine_scan_is_searched_on_a_coarse_copy(monkeypatch):
    fine = trunk().repeat(2, axis=1).repeat(2, axis=2)
    sizes = []
    monkeypatch.setattr(body, "_opened", lambda mask, axes: sizes.append(mask.shape) or mask)
    box = body_box(fine, (5.0, 1.0, 1.0))
    assert sizes == [(40, 52, 52)]
    assert all(abs(side.start - 2 * other) < 8 for side, other in zip(box[1:], (27, 19), strict=True))


def test_an_animal_smaller_than_the_margin_keeps_its_scan():
    assert whole(trunk()) is False
    box = body_box(trunk(), tuple(mm / 10 for mm in SPACING))
    assert box == tuple(slice(0, size) for size in SHAPE)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 300, 3), (3, 9, 500)])
def test_any_shape_and_spacing_gives_a_box_inside_the_scan(shape):
    rng = np.random.default_rng(0)
    for spacing in ((0.01, 0.01, 0.01), (1, 1, 1), (100, 3, 0.5)):
        box = body_box(rng.normal(-500, 500, shape).astype(np.float32), spacing)
        assert box is None or all(0 <= s.start < s.stop <= size for s, size in zip(box, shape, strict=True))
