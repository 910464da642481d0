"""Overlay pictures are written whole, also where a case holds nothing."""

import matplotlib.image
import numpy as np

from textdiffseg.imaging.panels import Panel, draw_panels


def test_a_picture_of_two_cases_one_of_them_empty(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(12, 16, 20))
    labels = np.zeros(image.shape, np.uint8)
    labels[3:9, 8, 4:12] = 2
    panels = [
        Panel("full", image, np.roll(labels, 2, axis=2), labels, (2.0, 1.0, 1.0)),
        Panel("empty", image, labels * 0, labels * 0, (1.0, 1.0, 1.0)),
    ]
    draw_panels(panels, {1: "liver", 2: "lesion"}, tmp_path / "pictures" / "overlay.png")
    picture = matplotlib.image.imread(tmp_path / "pictures" / "overlay.png")
    assert picture.shape[1] > picture.shape[0] > 100
    colourful = np.ptp(picture[..., :3], axis=2) > 0.2
    assert colourful.any(), "the contour is drawn in colour"
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["overlay.png"]


def test_rows_are_filled_one_after_the_other(tmp_path):
    image, labels = np.random.default_rng(0).normal(size=(12, 16, 20)), np.zeros((12, 16, 20), np.uint8)
    panels = [Panel(str(number), image, labels, labels, (1.0, 1.0, 1.0)) for number in range(6)]
    shapes = []
    for rows in (1, 3):
        draw_panels(panels, {1: "liver"}, tmp_path / f"{rows}.png", rows)
        shapes.append(matplotlib.image.imread(tmp_path / f"{rows}.png").shape)
    assert shapes[0][1] == 3 * shapes[1][1]
    assert shapes[1][0] > 2 * shapes[0][0]
