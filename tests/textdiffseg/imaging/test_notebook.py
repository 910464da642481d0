"""The widget of a notebook holds the scan and its masks in their place, in the colours of pictures."""

import gzip
import importlib.machinery
import importlib.util
import sys
import types

import nibabel as nib
import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.imaging import notebook
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.pictures import label_colour

AFFINE = np.array([[0, 0, 2.5, -3], [0.8, 0, 0, 5], [0, -0.7, 0, 9], [0, 0, 0, 1]])
ARRAY = np.random.default_rng(0).normal(0, 300, (6, 7, 8)).astype(np.float32)  # (x, y, z)
LABELS = np.zeros((6, 7, 8), np.int64)
LABELS[1:3, 2:5, 3:6], LABELS[4, 4, 4] = 7, 3


class Layer:
    """What ipyniivue's Volume does without a browser."""

    def __init__(self, **traits):
        self.__dict__ |= traits

    def set_colormap_label(self, table):
        self.table = table


class Widget:
    def __init__(self, **options):
        self.options = options

    def load_volumes(self, volumes):
        self.volumes = volumes


@pytest.fixture(autouse=True)
def ipyniivue(monkeypatch):
    """The package if it is installed, else a stand-in."""
    if importlib.util.find_spec("ipyniivue") is None:
        stand_in = types.ModuleType("ipyniivue")
        stand_in.__spec__ = importlib.machinery.ModuleSpec("ipyniivue", None)
        stand_in.NiiVue, stand_in.Volume = Widget, Layer
        monkeypatch.setitem(sys.modules, "ipyniivue", stand_in)


def image_of(layer):
    return nib.Nifti1Image.from_bytes(gzip.decompress(layer.data))


def test_the_widget_has_scan_and_masks_on_the_scan_s_grid():
    scan = volume_of(ARRAY, affine=AFFINE)
    widget = notebook.niivue_widget(scan, LABELS, {7: "liver", 3: "spleen"})
    grey, masks = widget.volumes
    assert np.array_equal(image_of(grey).get_fdata(), ARRAY)
    assert np.array_equal(image_of(masks).get_fdata(), LABELS)
    assert image_of(masks).get_data_dtype() == np.uint8
    for layer in (grey, masks):
        np.testing.assert_allclose(image_of(layer).affine, AFFINE, atol=1e-6)
    assert grey.cal_min < grey.cal_max
    assert masks.opacity == notebook.OPACITY


def test_files_and_arrays_with_a_spacing_have_their_own_axes():
    scan = volume_of(ARRAY.transpose(), spacing=(2.5, 0.8, 0.7))
    grey, masks = notebook.niivue_widget(scan, LABELS.transpose(), {7: "liver", 3: "spleen"}).volumes
    assert np.array_equal(image_of(grey).get_fdata(), ARRAY)
    assert np.array_equal(image_of(masks).get_fdata(), LABELS)
    np.testing.assert_allclose(image_of(grey).affine, np.diag([-0.7, -0.8, 2.5, 1]), atol=1e-6)


def test_labels_have_the_colours_of_pictures():
    table = notebook.colours({7: "liver", 3: "spleen"})
    assert (table["I"], table["A"], table["labels"]) == ([0, 7, 3], [0, 255, 255], ["", "liver", "spleen"])
    for place in (0, 1):
        expected = [round(255 * one) for one in label_colour(place)]
        assert [table[key][place + 1] for key in "RGB"] == expected


def test_a_large_scan_is_thinned_along_its_finest_axes(monkeypatch):
    monkeypatch.setattr(notebook, "MAX_VOXELS", 6 * 7 * 8 // 4)
    grey, masks = notebook.niivue_widget(volume_of(ARRAY, affine=AFFINE), LABELS, {7: "liver"}).volumes
    assert np.array_equal(image_of(grey).get_fdata(), ARRAY[::2, ::2])
    assert np.array_equal(image_of(masks).get_fdata(), LABELS[::2, ::2])
    np.testing.assert_allclose(image_of(grey).affine, AFFINE @ np.diag([2, 2, 1, 1]), atol=1e-6)


def test_without_the_package_the_view_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    words = r"A view in a notebook needs ipyniivue: pip install 'textdiffseg\[notebook\]'"
    with pytest.raises(UserError, match=words):
        notebook.niivue_widget(volume_of(ARRAY, affine=AFFINE), LABELS, {7: "liver"})
