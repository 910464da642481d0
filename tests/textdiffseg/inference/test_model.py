"""DESIGN 2: one scan gives one mask, in whatever form it is handed over."""

import threading
import weakref

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import textdiffseg as tds
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.inference import memory


@pytest.fixture
def model(root):
    return tds.load(root / "results" / "Dataset900_Tiny" / "default", device="cpu")


@pytest.fixture
def scan(tmp_path, make_scan):
    """A scan whose axes are neither canonical nor of equal length."""
    path = tmp_path / "a.nii.gz"
    make_scan(path)
    image = sitk.ReadImage(str(path))
    image.SetDirection((-1, 0, 0, 0, 0, 1, 0, -1, 0))
    sitk.WriteImage(image, str(path))
    return path


def written(tmp_path, model, scan):
    """The mask that `tds_predict` writes, (z, y, x)."""
    assert tds.predict(scan, tmp_path / "out", model=model).written == ["a"]
    return read_labels(tmp_path / "out" / "a.nii.gz").array[0]


def test_paths_arrays_and_images_of_other_libraries_give_the_mask_that_is_written(tmp_path, model, scan):
    expected = written(tmp_path, model, scan)
    assert len(np.unique(expected)) == 3
    assert np.array_equal(model.segment(scan).labels, expected)
    assert np.array_equal(model.segment([str(scan)]).labels, expected)
    assert np.array_equal(model.segment(sitk.ReadImage(str(scan))).labels, expected)
    image = nibabel.load(scan)
    by_nibabel = model.segment(image).labels
    assert by_nibabel.shape == image.shape, "the input's own axis order"
    assert np.array_equal(by_nibabel.transpose(), expected)
    array = np.asanyarray(image.dataobj)
    assert np.array_equal(model.segment(array, affine=image.affine).labels, by_nibabel)
    swapped = array.transpose(1, 2, 0)
    assert np.array_equal(
        model.segment(swapped, affine=image.affine[:, [1, 2, 0, 3]]).labels, by_nibabel.transpose(1, 2, 0)
    )


def test_an_array_with_a_spacing_is_in_the_scanner_s_order(tmp_path, model, make_scan):
    """(z, y, x) towards superior, posterior and left: what a file with the identity as its direction holds."""
    make_scan(tmp_path / "b.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    image.SetDirection(np.eye(3).ravel())
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    expected = model.segment(image).labels
    assert np.array_equal(model.segment(array, spacing=spacing).labels, expected)
    assert np.array_equal(model.segment(array[None], spacing=spacing).labels, expected)
    assert not np.array_equal(model.segment(array[::-1], spacing=spacing).labels[::-1], expected)


def test_a_map_that_was_not_requested_has_a_way_to_it(model, scan):
    result = model.segment(scan)
    with pytest.raises(tds.UserError, match="Segment with probabilities=True"):
        result.probability("back")
    with pytest.raises(tds.UserError, match="Segment with uncertainty=True"):
        result.uncertainty()


def test_a_result_has_names_values_volumes_and_writes_itself(tmp_path, model, scan):
    result = model.segment(scan, prompts=["posterior end"], uncertainty=True, probabilities=True)
    assert (result.names, result.values) == (("back",), (3,))
    assert result.volumes["back"].low_ml is None, "this fold was not calibrated"
    assert result.expected_dice is None
    assert np.array_equal(result.mask("back"), result.labels == 3)
    assert result.probability("back").shape == result.uncertainty().shape == result.labels.shape
    assert result.uncertainty("between_samples").max() > 0
    names = result.write(tmp_path / "out", "case.nii.gz")
    assert names[:2] == ("case.nii.gz", "probabilities/case_1_back.nii.gz")
    assert {path.name for path in (tmp_path / "out" / "uncertainty").iterdir()} == {
        f"case_{kind}.nii.gz" for kind in ("entropy", "between_samples", "between_folds")
    }
    found = read_labels(tmp_path / "out" / "case.nii.gz")
    assert np.array_equal(found.array[0], result.labels)
    assert found.geometry.matches(read_volume((scan,)).geometry, 1e-3)


def test_a_model_knows_its_labels_and_their_words(model):
    assert dict(model.labels) == {"Front_Part": 7, "back": 3}
    assert "posterior end" in model.phrasings["back"]


def test_progress_is_reported_and_a_cancelled_prediction_stops(model, scan):
    events = []
    model.segment(scan, progress=events.append)
    assert [event.done for event in events] == list(range(1, int(events[0].total) + 1))
    assert {event.stage for event in events} == {"Predict"}
    with pytest.raises(tds.Cancelled):
        model.segment(scan, cancel=lambda: True)


def test_worker_threads_give_the_same_masks(model, scan):
    expected, found = model.segment(scan).labels, {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: model.segment(scan).labels})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(labels, expected) for labels in found.values())


ARRAY = np.zeros((4, 5, 6), np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scan": ARRAY}, "give either spacing"),
        ({"scan": ARRAY, "spacing": (1, 1, 1), "affine": np.eye(4)}, "give either spacing"),
        ({"scan": ARRAY, "spacing": (1, 1)}, "expected three numbers above 0"),
        ({"scan": ARRAY, "spacing": (1, 0, 1)}, "expected three numbers above 0"),
        ({"scan": ARRAY, "spacing": (1, float("nan"), 1)}, "expected three numbers above 0"),
        ({"scan": ARRAY, "affine": np.diag([1, 1, 0, 1])}, "one of its axes has no length"),
        (
            {"scan": ARRAY, "affine": np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])},
            "right angles",
        ),
        ({"scan": ARRAY, "affine": np.eye(3)}, r"\(4, 4\)"),
        ({"scan": ARRAY[0], "spacing": (1, 1, 1)}, "at least two voxels"),
        ({"scan": ARRAY[:1], "spacing": (1, 1, 1)}, "at least two voxels"),
        ({"scan": ARRAY + np.inf, "spacing": (1, 1, 1)}, "NaN or infinite"),
        ({"scan": ARRAY.astype(complex), "spacing": (1, 1, 1)}, "whole or real numbers"),
        ({"scan": np.zeros((2, 4, 5, 6)), "spacing": (1, 1, 1)}, "2 channels, expected 1"),
        ({"scan": "nowhere.nii.gz"}, "does not exist"),
        ({"scan": "nowhere.nii.gz", "spacing": (1, 1, 1)}, "for arrays"),
        ({"scan": 7}, "A int cannot be segmented"),
        ({"scan": ARRAY, "spacing": (1, 1, 1), "prompts": "back"}, "expected a list of phrases"),
        ({"scan": ARRAY, "spacing": (1, 1, 1), "prompts": ["big toe"]}, "nearest"),
        ({"scan": ARRAY, "spacing": (1, 1, 1), "text": "old"}, "does not read case texts"),
    ],
)
def test_a_user_s_mistake_is_one_sentence(model, arguments, words):
    with pytest.raises(tds.UserError, match=words):
        model.segment(**arguments)


def test_a_scan_that_memory_cannot_hold_is_refused_in_python_too(model, scan, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "own_memory", lambda: 1e3)
    with pytest.raises(tds.UserError, match="its prediction needs about"):
        model.segment(scan)
    (found,) = model.segment_each([scan])
    assert isinstance(found, tds.UserError)
    assert found.__traceback__ is None, "its frames would hold the scan"


def test_a_file_that_memory_cannot_hold_is_refused_before_it_is_read(model, scan, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "own_memory", lambda: 1e3)
    monkeypatch.setattr("textdiffseg.inference.model.volume_of", lambda *_: pytest.fail("it was read"))
    for given in (scan, str(scan), [scan], {"CT": scan}):
        with pytest.raises(tds.UserError, match="its prediction needs about"):
            model.segment(given)


def test_maps_that_python_keeps_in_memory_count(model, scan, monkeypatch):
    found = []
    monkeypatch.setattr("textdiffseg.inference.model.refuse_too_large", lambda *_, kept, **__: found.append(kept.maps))
    model.segment(scan, probabilities=True)
    assert found == [True, True], "before it is read, and before it is resampled"


def test_full_memory_is_the_error_of_one_scan(model, scan, monkeypatch):
    monkeypatch.setattr("textdiffseg.inference.model.volume_of", lambda *_: torch.empty(10**14))
    (found,) = model.segment_each([scan])
    assert "the memory of the machine is full" in str(found)


def test_a_result_is_released_before_the_next_scan_is_segmented(model, scan):
    seen = []

    def queue():
        yield scan
        seen.append(first())
        yield scan

    results = model.segment_each(queue())
    first = weakref.ref(next(results))
    next(results)
    assert seen == [None]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(tds.UserError, match="is not a folder"):
        tds.load(tmp_path / "nowhere")


def test_nothing_but_the_mask_and_its_volumes_is_computed_unless_requested(model, scan):
    result = model.segment(scan)
    assert result.maps == {}
    assert all(volume.low_ml is None for volume in result.volumes.values())
    prepared = model.prepare(tds.SegmentOptions())
    assert (prepared.uncertainty_predictor, prepared.probabilities, prepared.uncertainty) == (None, False, False)
    assert prepared.mask_predictor.predictor.settings.seed == 0


@pytest.mark.parametrize("as_on_gpu", [False, True])
def test_scans_are_segmented_one_after_the_other_and_one_that_fails_stops_no_other(
    model, scan, tmp_path, as_on_gpu, request
):
    if as_on_gpu:
        request.getfixturevalue("threads")
    expected = model.segment(scan, prompts=["back"]).labels
    taken = []

    def queue():
        for path in (scan, tmp_path / "missing.nii.gz", scan):
            taken.append(path)
            yield path

    results = model.segment_each(queue(), tds.SegmentOptions(prompts=("back",)))
    first = next(results)
    assert len(taken) <= 2, "scans are taken one by one"
    second, third = results
    assert np.array_equal(first.labels, expected)
    assert np.array_equal(third.labels, expected)
    assert isinstance(second, tds.UserError)
    assert "missing.nii.gz does not exist" in str(second)
