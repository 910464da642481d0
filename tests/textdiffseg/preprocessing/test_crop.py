"""What is kept of a scan: by each rule, with labels in training and without them in prediction."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from plans.fingerprint import LABELS_OUTSIDE_CROP
from plans.plan import Plan
from plans.raw.dataset import read_dataset
from textdiffseg.data.preparing import preprocess_case
from textdiffseg.data.store import open_case
from textdiffseg.imaging.body import body_box
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels, restore
from textdiffseg.preprocessing.crop import crop_box
from textdiffseg.preprocessing.fingerprinting import fingerprint_dataset

SHAPE = (40, 120, 120)
SPACING = (2.0, 2.0, 2.0)
FULL = tuple((0, size) for size in SHAPE)


def scan(shape=SHAPE) -> np.ndarray:
    """Air around a body with structure, and a lung in it."""
    rng = np.random.default_rng(0)
    d, h, w = np.ogrid[: shape[0], : shape[1], : shape[2]]
    image = np.where(np.hypot(h - 60, w - 60) + 0 * d < 30, 40 + rng.normal(0, 20, shape), -1000).astype(np.float32)
    image[(np.hypot(h - 60, w - 60) + 0 * d) < 9] = -850
    return image


def labels_at(*places) -> np.ndarray:
    """Label numbers with one voxel of label 1 at each place."""
    numbers = np.zeros(SHAPE, np.int16)
    for place in places:
        numbers[place] = 1
    return numbers


def volume(image, spacing=SPACING) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * spacing
    return Volume(image[None], Geometry(image.shape, affine))


def ct_plan(make_plan, **changes) -> Plan:
    channel = {"name": "CT", "scheme": "ct", "low": -1000, "high": 1000, "mean": 0, "std": 1}
    return make_plan(channels=[channel], spacing=SPACING, crop="body", **changes)


def test_each_rule_keeps_its_part():
    image = np.stack([scan(), scan()])
    image[:, :3] = 0
    assert crop_box(image, SPACING, "none") == FULL
    assert crop_box(image, SPACING, "nonzero") == ((3, 40), *FULL[1:])
    box = tuple((side.start, side.stop) for side in body_box(image[0], SPACING))
    assert crop_box(image, SPACING, "body") == box
    assert all(0 < low < 31 - 9 and 90 + 9 < high < 120 for low, high in box[1:])
    image[1] = 40
    assert crop_box(image, SPACING, "body") == box, "the first channel decides"


def test_without_a_body_the_nonzero_part_is_kept():
    image = np.zeros((1, *SHAPE), np.float32)
    assert crop_box(image, SPACING, "body") == FULL
    image[0, 5:20] = -1000
    assert crop_box(image, SPACING, "body") == ((5, 20), *FULL[1:])


def test_in_training_no_labelled_voxel_is_cut():
    image = scan()[None]
    usual = crop_box(image, SPACING, "body")
    assert crop_box(image, SPACING, "body", labels_at((20, 60, 60))) == usual
    assert crop_box(image, SPACING, "body", labels_at()) == usual
    assert crop_box(image, SPACING, "body", labels_at((20, 60, 119))) == (*usual[:2], (usual[2][0], 120))
    cut = image * (np.arange(SHAPE[2]) < 100)
    assert crop_box(cut, SPACING, "nonzero", labels_at((20, 60, 119)))[2] == (0, 120), "so does the nonzero region"
    ignored = -labels_at((20, 60, 119))
    assert crop_box(image, SPACING, "body", ignored) == usual


def test_a_cropped_scan_is_the_whole_scan_inside_its_box(make_plan):
    """The box begins and ends on voxels of both grids, so they can be compared. Its margin is full of structure."""
    image = scan() + np.where(scan() < -900, np.random.default_rng(1).uniform(0, 300, SHAPE), 0).astype(np.float32)
    plan = ct_plan(make_plan)
    cropped, transform = preprocess_image(volume(image), plan)
    whole, _ = preprocess_image(volume(image), plan.model_copy(update={"crop": "none"}))
    assert cropped.shape[1:] < SHAPE
    assert np.array_equal(cropped, whole[transform.box]), "at the plan's spacing"
    coarse = plan.model_copy(update={"spacing": (4.0, 4.0, 4.0)})
    cropped, transform = preprocess_image(volume(image), coarse)
    whole, _ = preprocess_image(volume(image), coarse.model_copy(update={"crop": "none"}))
    assert all((side[0] % 2, side[1] % 2) == (0, 0) for side in transform.crop), "else the grids would differ"
    inside = tuple(slice(start // 2, end // 2) for start, end in transform.crop)
    assert cropped.shape[1:] == whole[0][inside].shape
    assert np.abs(cropped[0] - whole[0][inside]).max() < 1e-3


def largest_difference(image, transform, scan, plan) -> float:
    """How far a preprocessed image is from the spline of the whole scan, at the places of its own voxels.

    The places are random voxels of the plan's grid, half of them in its outermost planes. `scan` (D, H, W) is
    canonical, before normalisation.
    """
    (channel,), rng = plan.channels, np.random.default_rng(0)
    normalised = (np.clip(scan.astype(np.float64), channel.low, channel.high) - channel.mean) / channel.std
    places = np.array([rng.integers(0, size, 4000) for size in transform.shape])
    for axis, size in enumerate(transform.shape):
        places[axis, axis::6] = rng.choice([0, size - 1], len(places[axis, axis::6]))
    starts = np.array([start for start, _ in transform.crop])[:, None]
    steps = (np.array(transform.cropped_shape) / transform.shape)[:, None]
    wanted = ndimage.map_coordinates(normalised, starts + (places + 0.5) * steps - 0.5, order=3, mode="nearest")
    limits = (np.array([channel.low, channel.high]) - channel.mean) / channel.std
    return float(np.abs(image[0][tuple(places)] - wanted.clip(*limits)).max() * channel.std)


@pytest.mark.parametrize("spacing", [(3.1, 1.3, 2.7), (2.0, 1.7, 1.1), (1.4, 2.0, 3.9)])
def test_the_crop_does_not_change_the_image_inside_it(make_plan, spacing):
    """In HU, at the same place in the world; the grid of the cropped scan has its own places."""
    rng = np.random.default_rng(2)
    image = (scan() + rng.normal(0, 60, SHAPE)).astype(np.float32)
    image[:, :, 101:103] = 900  # a plate at the edge of the box
    plan = ct_plan(make_plan).model_copy(update={"spacing": spacing})
    found, transform = preprocess_image(volume(image), plan)
    assert sum(start > 0 for start, _ in transform.crop) >= 2, "nothing was cut"
    assert largest_difference(found, transform, image, plan) < 1e-3


def test_the_nonzero_crop_does_not_change_it_either(make_plan):
    image = np.zeros(SHAPE, np.float32)
    image[5:31, 17:80, 40:103] = np.random.default_rng(3).normal(300, 80, (26, 63, 63))
    plan = ct_plan(make_plan).model_copy(update={"spacing": (2.7, 1.3, 3.3), "crop": "nonzero"})
    found, transform = preprocess_image(volume(image), plan)
    assert transform.crop == ((5, 31), (17, 80), (40, 103))
    assert largest_difference(found, transform, image, plan) < 1e-3


def test_statistics_are_those_of_the_box_and_not_of_the_margin(make_plan):
    image = np.zeros(SHAPE, np.float32)
    image[5:31, 17:80, 40:103] = np.random.default_rng(3).normal(300, 80, (26, 63, 63))
    for scheme in ("zscore", "rescale_to_0_1"):
        plan = make_plan(channels=[{"name": "MRI", "scheme": scheme}], spacing=SPACING, crop="nonzero")
        same, transform = preprocess_image(volume(image), plan)
        fine, _ = preprocess_image(volume(image), plan.model_copy(update={"spacing": (2.0, 1.0, 2.0)}))
        inside = image[transform.box].astype(np.float64)
        first, second = (inside.mean(), inside.std()) if scheme == "zscore" else (inside.min(), np.ptp(inside))
        assert np.abs(same[0] - (inside - first) / second).max() < 1e-5
        assert abs(fine.mean() - same.mean()) < 1e-2


def test_the_crop_does_not_change_a_real_ct(make_plan, shared_data):
    from textdiffseg.imaging.sources.files import read_volume
    from textdiffseg.imaging.volume import to_canonical

    volume = read_volume((shared_data / "scans" / "CRLM-CT-1004.nii.gz",))
    channel = {"name": "CT", "scheme": "ct", "low": -900, "high": 1200, "mean": 90, "std": 150}
    plan = make_plan(channels=[channel], spacing=(5.0, 1.7, 1.3), crop="body")
    canonical = to_canonical(volume)[0].array[0]
    found, transform = preprocess_image(volume, plan)
    assert transform.cropped_shape[1] < 0.75 * canonical.shape[1]
    assert largest_difference(found, transform, canonical, plan) < 1e-3


def test_prediction_leads_back_to_the_scan_s_grid(make_plan):
    plan = ct_plan(make_plan)
    there, transform = preprocess_image(volume(scan()), plan)
    mask = there[0] > 0
    back = restore(np.stack([~mask, mask]).astype(np.float32), transform)
    assert np.array_equal(back == 1, scan() > 0)


@pytest.fixture
def raw(tmp_path, write_raw):
    """Two CT cases with the body of `scan`; the second has a label far from it."""
    folder = write_raw(tmp_path, cases=2)
    dataset = read_dataset(folder)
    for number, case in enumerate(dataset.cases):
        near, far = (20, 60, 60), (20, 60, 119)
        numbers = labels_at(near, far) if number else labels_at(near)
        for path, array in ((case.images[0], scan()), (case.label, numbers)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(SPACING)
            sitk.WriteImage(image, str(path))
    return dataset.model_copy(update={"channels": ("CT",)})


def test_the_fingerprint_has_the_cropped_shape_and_notes_labels_outside_the_body(raw):
    fingerprint = fingerprint_dataset(raw, workers=0)
    first, second = fingerprint.cases
    assert first.cropped_shape[1] == second.cropped_shape[1] < 120
    assert first.cropped_shape[2] < second.cropped_shape[2]
    assert (LABELS_OUTSIDE_CROP in first.notes, LABELS_OUTSIDE_CROP in second.notes) == (False, True)
    assert fingerprint.extended_crops() == 1
    mri = fingerprint_dataset(raw.model_copy(update={"channels": ("MRI",)}), workers=0)
    assert {case.cropped_shape for case in mri.cases} == {SHAPE}


def test_stored_cases_keep_every_label_and_predictions_crop_alike(raw, tmp_path, make_plan):
    plan = ct_plan(make_plan, labels=[label.model_dump() for label in raw.labels])
    for case in raw.cases:
        preprocess_case(case, plan, tmp_path)
    first, second = (open_case(tmp_path, case.id) for case in raw.cases)
    _, predicted = preprocess_image(volume(scan()), plan)
    assert first.record.transform.crop == predicted.crop
    assert (np.count_nonzero(first.labels[...]), np.count_nonzero(second.labels[...])) == (1, 2)
    again = preprocess_labels(second.original_labels(), second.record.transform, plan)
    assert np.array_equal(again, second.labels[...])
