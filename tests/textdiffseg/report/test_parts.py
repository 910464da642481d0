"""Parts of the page: escaping, box plots, and the volumes that the viewer embeds."""

import gzip
from base64 import b64decode

import numpy as np
from nibabel.nifti1 import Nifti1Image

from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.imaging.volume import Volume
from textdiffseg.report import scores, viewer
from textdiffseg.report.cases import chosen
from textdiffseg.report.page import Html, element, join, table
from textdiffseg.report.shown import shown_case


def test_text_is_escaped_and_markup_is_not():
    assert element("b", "<i>", Html("<br>"), title='"') == '<b title="&quot;">&lt;i&gt;<br></b>'
    assert join(["a & b", element("p", "c")]) == "a &amp; b<p>c</p>"
    assert "&lt;td&gt;" in table(("head",), [("<td>",)])


def case(name, dice):
    scores = LabelScores(dice=dice, nsd=None, hd95=None, volume_ml=1, reference_ml=1)
    return CaseScores(case=name, labels={"liver": scores})


def test_the_worst_median_and_best_case_are_chosen():
    cases = [case("a", 0.9), case("b", 0.1), case("c", 0.5), case("d", None)]
    assert {name: one.case for name, one in chosen(cases).items()} == {
        "Worst case": "b",
        "Median case": "c",
        "Best case": "a",
    }
    assert [one.case for one in chosen(cases[:1]).values()] == ["a"]
    assert chosen(cases[3:]) == {}


def read(text: str) -> Nifti1Image:
    return Nifti1Image.from_bytes(gzip.decompress(b64decode(text)))


def test_an_embedded_case_keeps_its_place_and_is_small(make_geometry, monkeypatch):
    """The centre of mass of a mask has the same world coordinates before and after the reduction."""
    monkeypatch.setattr(viewer, "MAX_VOXELS", 3000)
    shape = (24, 32, 40)
    labels = np.zeros(shape, np.int16)
    labels[8:16, 8:24, 12:20] = 2
    geometry = make_geometry(shape)
    noise = np.random.default_rng(0).uniform(0, 40, (1, *shape)).astype(np.float32)
    scan = Volume(noise + 50 * labels, geometry)
    found = viewer._embedded(shown_case("a", scan, labels, {"liver": (2,)}, hounsfield=False))
    small = read(found["volumes"]["prediction"])
    array = np.asarray(small.dataobj)
    assert set(np.unique(array)) == {0, 2}
    assert array.size <= 3000
    centre = np.argwhere(array == 2).mean(0)
    world = (small.affine @ [*centre, 1])[:3]
    expected = geometry.affine @ [*np.argwhere(labels).mean(0), 1]
    assert np.abs(world - expected[:3] * (-1, -1, 1)).max() < 0.75, "RAS; a voxel is 4 mm at most"
    grey = np.asarray(read(found["volumes"]["scan"]).dataobj)
    assert grey[array == 2].mean() > 200 > 80 > np.median(grey[array == 0])


def test_the_cross_starts_in_the_masks(make_geometry):
    """Fractions along x to the right, y to anterior and z to superior, of the canonical grid."""
    shape = (10, 20, 40)
    labels = np.zeros(shape, np.int16)
    geometry = make_geometry(shape)
    scan = Volume(np.random.default_rng(0).uniform(0, 1, (1, *shape)).astype(np.float32), geometry)
    labels[8, 3, 30] = 1
    found = viewer._embedded(shown_case("a", scan, labels, {"liver": (1,)}, hounsfield=False))
    array = np.asarray(read(found["volumes"]["prediction"]).dataobj)
    affine = read(found["volumes"]["prediction"]).affine
    place = np.argwhere(array)[0]
    fractions = (place + 0.5) / array.shape
    expected = [fraction if affine[axis, axis] > 0 else 1 - fraction for axis, fraction in enumerate(fractions)]
    assert np.allclose(found["cross"], expected)


def test_a_label_has_one_colour_in_all_pictures(monkeypatch):
    """The first case lacks the first label, and no case has the second one."""
    positions = []
    monkeypatch.setattr(scores, "label_colour", lambda position: positions.append(position) or "red")
    one = LabelScores(dice=0.5, nsd=0.5, hd95=1, volume_ml=2, reference_ml=3)
    cases = [CaseScores(case="a", labels={"heart": one}), CaseScores(case="b", labels={"liver": one, "heart": one})]
    assert scores.volumes(cases, ("liver", "spleen", "heart"))
    assert positions == [0, 2]
