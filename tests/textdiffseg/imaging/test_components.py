import numpy as np

from textdiffseg.imaging.components import components_of, holes_in


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((4, 4, 5), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 4] = True
    found, count = components_of(mask)
    assert count == 2
    assert found[0, 0, 0] == found[1, 1, 1] != found[3, 3, 4]
    assert not found[~mask].any()
    turned, again = components_of(mask.transpose(2, 0, 1))
    assert again == 2
    assert ((turned > 0) == mask.transpose(2, 0, 1)).all()
    assert components_of(np.zeros((2, 2, 2), bool))[1] == 0


def test_a_hole_is_enclosed_by_faces():
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2] = False
    assert np.argwhere(holes_in(mask)).tolist() == [[2, 2, 2]]
    mask[1, 1, 2] = mask[0, 1, 2] = False  # shares only an edge with the hole
    assert np.argwhere(holes_in(mask)).tolist() == [[2, 2, 2]]
    mask[2, 2, 1] = mask[2, 2, 0] = False
    assert not holes_in(mask).any()
