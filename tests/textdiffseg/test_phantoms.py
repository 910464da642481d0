"""The phantoms are seeded and varied, and no intensity distinguishes the look-alikes."""

import numpy as np
import pytest

from plans.raw.dataset import read_dataset
from plans.raw.prompts import names_sides
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.phantoms import LABELS, LOOK_ALIKES, NAME, draw_anatomy, paint, without, write_phantoms

BINS = 64


@pytest.fixture(scope="module")
def phantoms():
    """Twelve phantoms as (anatomy, scan, labels)."""
    anatomies = [draw_anatomy(0, index) for index in range(12)]
    return [(anatomy, *paint(anatomy, np.random.default_rng((0, i, 1)))) for i, anatomy in enumerate(anatomies)]


def best_intensity_classifier(scan: np.ndarray, mask: np.ndarray) -> float:
    """The best Dice of any set of intensities, chosen with the reference in hand.

    The best set is made of the bins with the highest share of the structure; more than any real classifier knows.
    """
    edges = np.linspace(scan.min(), scan.max(), BINS + 1)
    bins = np.clip(np.digitize(scan, edges) - 1, 0, BINS - 1)
    inside, everything = np.bincount(bins[mask], minlength=BINS), np.bincount(bins.ravel(), minlength=BINS)
    order = np.argsort(-inside / np.maximum(everything, 1))
    hits, chosen = np.cumsum(inside[order]), np.cumsum(everything[order])
    return float((2 * hits / (chosen + mask.sum())).max())


def test_a_phantom_is_a_function_of_seed_and_index():
    one, again = (paint(draw_anatomy(3, 5), np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert draw_anatomy(3, 6).organs != draw_anatomy(3, 5).organs
    assert draw_anatomy(4, 5).organs != draw_anatomy(3, 5).organs


def test_phantoms_vary_in_grid_noise_contrast_and_lesion(phantoms):
    anatomies = [anatomy for anatomy, *_ in phantoms]
    assert len({anatomy.shape for anatomy in anatomies}) > 6
    assert any(anatomy.spacing[0] > 1.5 * anatomy.spacing[2] for anatomy in anatomies), "some have thick slices"
    assert np.ptp([anatomy.noise for anatomy in anatomies]) > 4
    assert np.ptp([anatomy.lesion_contrast for anatomy in anatomies]) > 10
    lesions = [anatomy.organs["liver lesion"].radii[0] for anatomy in anatomies if "liver lesion" in anatomy.organs]
    assert max(lesions) > 1.4 * min(lesions)


def test_every_phantom_has_all_organs_and_most_have_the_lesion(phantoms):
    present = [{LABELS[value - 1] for value in np.unique(labels) if value} for *_, labels in phantoms]
    assert all(found >= set(LABELS[:5]) for found in present)
    assert 0.6 * len(present) < sum("liver lesion" in found for found in present) <= len(present)


def test_look_alikes_have_the_same_intensity_and_shape(phantoms):
    first, second = (1 + LABELS.index(name) for name in LOOK_ALIKES)
    for anatomy, scan, labels in phantoms:
        assert anatomy.organs[LOOK_ALIKES[0]].radii == anatomy.organs[LOOK_ALIKES[1]].radii
        means = scan[labels == first].mean(), scan[labels == second].mean()
        assert abs(means[0] - means[1]) < 0.25 * means[0], "no more apart than the bias field makes them"


def test_each_gland_lies_beside_the_organ_of_its_name(phantoms):
    for anatomy, _, labels in phantoms:

        def middle(name, labels=labels, spacing=anatomy.spacing):
            return np.argwhere(labels == 1 + LABELS.index(name)).mean(axis=0) * spacing

        liver, spleen = middle("liver"), middle("spleen")
        for name, own, other in ((LOOK_ALIKES[0], liver, spleen), (LOOK_ALIKES[1], spleen, liver)):
            assert np.linalg.norm(middle(name) - own) < np.linalg.norm(middle(name) - other)


def test_intensity_alone_cannot_find_the_look_alikes(phantoms):
    """Over all scans together, and on average for a classifier fitted to each scan with its own reference."""
    pooled = np.concatenate([(scan / anatomy.gain).ravel() for anatomy, scan, _ in phantoms])
    truth = np.concatenate([labels.ravel() for *_, labels in phantoms])
    for name in LOOK_ALIKES:
        value = 1 + LABELS.index(name)
        assert best_intensity_classifier(pooled, truth == value) < 0.5
        fitted = [best_intensity_classifier(scan, labels == value) for _, scan, labels in phantoms]
        assert np.mean(fitted) < 0.5


@pytest.mark.parametrize("label", LABELS)
def test_a_phantom_without_an_organ_keeps_the_others(phantoms, label):
    anatomy, _, labels = phantoms[0]
    assert "liver lesion" in anatomy.organs, "else there is nothing to lack"
    _, fewer = paint(without(anatomy, label), np.random.default_rng((0, 0, 1)))
    gone = {label, "liver lesion"} if label == "liver" else {label}
    assert {LABELS[value - 1] for value in np.unique(fewer) if value} == set(LABELS) - gone
    kept = [value for value, name in enumerate(LABELS, start=1) if name not in gone]
    for value in kept:
        assert not ((labels == value) & (fewer != value)).any(), "what stays, stays where it is"


def test_some_training_phantoms_lack_an_organ_and_no_test_phantom_does(tmp_path):
    folder = write_phantoms(tmp_path, training=3, test=1, lacking=1.0)
    paths = sorted(folder.glob("labelsT*/*.nii.gz"))
    assert len(paths) == 4
    for path in paths:
        found = set(np.unique(read_labels(path).array)) - {0}
        index = int(path.name[-10:-7]) + (3 if path.parent.name == "labelsTs" else 0)
        whole = set(np.unique(paint(draw_anatomy(0, index), np.random.default_rng((0, index, 1)))[1])) - {0}
        if path.parent.name == "labelsTs":
            assert found == whole
        else:
            assert found <= whole
            assert len(found) < len(LABELS)


def test_no_label_names_a_side():
    assert not names_sides(LABELS)


def test_the_written_data_set_is_valid_and_can_be_read(tmp_path):
    folder = write_phantoms(tmp_path, training=2, test=1, seed=7)
    assert folder == tmp_path / "raw" / NAME
    dataset = read_dataset(folder)
    assert [label.name for label in dataset.labels] == list(LABELS)
    assert len(dataset.cases) == 2
    scan, labels = paint(draw_anatomy(7, 2), np.random.default_rng((7, 2, 1)))
    (image,), (truth,) = ((folder / name).iterdir() for name in ("imagesTs", "labelsTs"))
    image, truth = read_volume((image,)), read_labels(truth)
    np.testing.assert_array_equal(image.array[0], scan)
    np.testing.assert_array_equal(truth.array[0], labels)
    assert image.geometry.matches(truth.geometry)
    assert image.geometry.spacing == pytest.approx(draw_anatomy(7, 2).spacing, abs=1e-4)
