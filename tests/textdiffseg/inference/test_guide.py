"""DESIGN 4: low resolution runs by itself, and shows the full resolution where to look."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import textdiffseg as tds
from plans.errors import UserError
from textdiffseg.folds.low import why_no_guide
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference import segmenting
from textdiffseg.inference.guide import NOTHING_FOUND, GuideResult, find_region
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.region import Region
from textdiffseg.inference.segmenting import SegmentOptions

EVERYTHING = {"uncertainty": True, "probabilities": True, "alternatives": 2, "steps": 1}
ASKED = {"mirroring": False}


@pytest.fixture
def results(root, make_plan, make_fold, bank, mark_validated):
    """The folder of a data set with two folds of full resolution and one of low resolution."""
    low = make_plan(resolution="low", spacing=(2, 2, 2))
    make_fold(root / "results" / low.dataset / "default-low" / "fold_0", low, bank, 7)
    mark_validated(root / "results" / low.dataset / "default-low" / "fold_0", Front_Part=1.0, back=0.96)
    return root / "results" / low.dataset


@pytest.fixture
def scan(tmp_path, make_scan):
    make_scan(tmp_path / "scan.nii.gz", (6, 24, 34))
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def sees(monkeypatch):
    """A function that lets the guide find only this box of its grid."""

    def only(*box, missing=()):
        def seen(predictor, image, selection, progress=None):
            found = np.zeros(image.shape[1:], dtype=bool)
            found[box] = True
            return GuideResult(Region(found), missing)

        monkeypatch.setattr(segmenting, "find_region", seen)

    return only


def load(results, folds=("0",)):
    return tds.load(results / "default", device="cpu", folds=folds)


def test_windows_near_what_was_found_are_those_of_a_whole_prediction(plan, bank, make_model):
    image = torch.randn(1, 12, 24, 70, generator=torch.Generator().manual_seed(1))
    predictor = Predictor([make_model(plan)], PredictionSettings(steps=1, samples=2))
    whole = predictor.predict_image(image, bank.all_labels(), uncertainty=True)
    everywhere = predictor.near(Region(np.ones((3, 4, 7), dtype=bool)))
    same = everywhere.predict_image(image, bank.all_labels(), uncertainty=True)
    assert torch.equal(same.probabilities, whole.probabilities)
    assert torch.equal(same.between_samples, whole.between_samples)
    found = np.zeros((12, 24, 70), dtype=bool)
    found[6:9, 3:9, 10:15] = True
    near = predictor.near(Region(found))
    assert 0 < near.windows((12, 24, 70)) < predictor.windows((12, 24, 70))
    part = near.predict_image(image, bank.all_labels(), uncertainty=True)
    inside = (slice(None), slice(2, 12), slice(0, 13), slice(6, 19))  # with the margin of 4 voxels
    torch.testing.assert_close(part.probabilities[inside], whole.probabilities[inside], atol=1e-5, rtol=0)
    assert torch.equal(part.probabilities[:, :, :, 69], torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 12, 24))
    assert predictor.region is None, "the predictor itself stays"


def test_the_search_finds_where_an_answer_wins_and_which_answers_are_missing(plan, bank, make_model, monkeypatch):
    image, predictor = torch.zeros(1, 12, 20, 20), Predictor([make_model(plan)], PredictionSettings())
    p = torch.zeros(3, 12, 20, 20)
    p[0], p[1, :6], p[2, 6:9] = 0.4, 0.5, 0.6
    slabs = [segment(p, first) for first in (0, 5)]
    monkeypatch.setattr(predictor, "predict_slabs", lambda *_, **__: iter(slabs))
    all_labels = select_labels(plan, bank, (), False, None)
    both = find_region(predictor, image, all_labels)
    assert np.array_equal(both.region.found, (p[1] + p[2]).numpy() > 0.4)
    assert both.notes == ()
    front = find_region(predictor, image, select_labels(plan, bank, ("front part",), False, None))
    assert np.array_equal(front.region.found, p[1].numpy() > 0.4), "the other label is a rival"
    p[1] = 0
    assert "did not find Front_Part" in find_region(predictor, image, all_labels).notes[0]
    p[2] = 0
    assert find_region(predictor, image, all_labels).notes == (NOTHING_FOUND,)


def segment(p, first):
    from textdiffseg.inference.windows import Prediction, Slab

    return Slab(first, Prediction(p[:, first : first + (5 if first == 0 else 7)]))


def test_a_guide_that_finds_everything_and_no_guide_give_the_bits_of_full_resolution(results, scan, sees):
    guided = load(results)
    shutil.rmtree(results / "default-low")
    alone = load(results)
    assert (guided.low is not None, alone.low) == (True, None)
    expected = alone.segment(scan, **ASKED, **EVERYTHING)
    sees(...)
    for found in (
        guided.segment(scan, **ASKED, **EVERYTHING),
        guided.segment(scan, guide=False, **ASKED, **EVERYTHING),
    ):
        assert np.array_equal(found.labels, expected.labels)
        assert found.volumes == expected.volumes
        assert all(np.array_equal(found.maps[name], expected.maps[name]) for name in expected.maps)
        assert all(
            np.array_equal(one.labels, other.labels)
            for one, other in zip(found.alternatives, expected.alternatives, strict=True)
        )
    assert len(np.unique(expected.labels)) == 3


def test_nothing_found_is_an_empty_mask_with_a_note(results, scan, sees):
    sees(slice(0))
    events = []
    result = load(results).segment(scan, **ASKED, **EVERYTHING, progress=events.append)
    assert not result.labels.any()
    assert NOTHING_FOUND in result.scan_notes
    assert not any(result.probability(name).any() for name in result.names)
    assert not result.uncertainty().any()
    assert all(volume.volume_ml == 0 for volume in result.volumes.values())
    assert events[-1].done == events[-1].total


def test_full_resolution_is_computed_near_what_was_found(results, scan, sees):
    model = load(results)
    whole = model.segment(scan, guide=False, probabilities=True, **ASKED)
    sees(slice(None), slice(None), slice(0, 1), missing=("back",))
    events = []
    part = model.segment(scan, probabilities=True, **ASKED, progress=events.append)
    for name, p in part.maps.items():
        np.testing.assert_allclose(p[..., :8], whole.maps[name][..., :8], atol=1e-5, err_msg="4 voxels of 2 mm")
        assert not p[..., 24:].any(), "the windows near it end before"
        assert whole.maps[name][..., 24:].min() > 0
    assert any("did not find back" in note for note in part.scan_notes)
    done = [event.done / event.total for event in events]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)


def test_best_computes_everything(results, scan, monkeypatch):
    monkeypatch.setattr(segmenting, "find_region", lambda *_: pytest.fail("it searched"))
    model = load(results)
    assert model.segment(scan, effort="best", **ASKED).labels.any()


def test_fast_is_low_resolution_alone(results, scan):
    fast = load(results).segment(scan, effort="fast")
    low = tds.load(results / "default-low", device="cpu")
    assert np.array_equal(fast.labels, low.segment(scan, effort="fast").labels)
    assert fast.transform.shape == (6, 12, 17), "2 mm slices stay, 1 mm voxels become 2 mm"
    assert low.low is None


def test_a_prompt_limits_the_search(results):
    prepared = load(results).prepare(tds.SegmentOptions(prompts=("front part",)))
    assert prepared.guide.selection.names == ("Front_Part",)
    assert prepared.guide.mask_predictor.predictor.settings.mirror_axes == ()


def test_chosen_folds_are_those_of_the_guide(results):
    assert load(results).low.ensemble.folds == ("0",)
    assert load(results, folds=None).low.ensemble.folds == ("0",)
    other = load(results, folds=["1"])
    assert other.low is None
    assert any("default-low has no fold 1" in note for note in other.notes)


@pytest.mark.parametrize("fault", ["labels", "weights", "full"])
def test_low_resolution_that_does_not_fit_is_left_out_with_a_note(results, make_plan, make_fold, bank, scan, fault):
    folder = results / "default-low" / "fold_0"
    if fault == "weights":
        (folder / "checkpoint_best.safetensors").write_bytes(b"damaged")
    else:
        shutil.rmtree(folder)
        labels = [{"name": "Front_Part", "value": 9}, {"name": "back", "value": 3}]
        changes = {"labels": labels, "resolution": "low"} if fault == "labels" else {}
        make_fold(folder, make_plan(**changes), bank, 7)
    model = load(results)
    assert model.low is None
    (note,) = [note for note in model.notes if note.startswith("Low resolution is not used: ")]
    assert {"labels": "other labels", "weights": "checkpoint_best", "full": "full resolution"}[fault] in note
    assert model.segment(scan, effort="fast").transform.shape == (12, 24, 34)


def test_a_model_in_the_working_folder_has_its_guide(results, monkeypatch):
    monkeypatch.chdir(results / "default")
    assert tds.load(".", device="cpu").low is not None
    assert tds.load("fold_0", device="cpu").low is not None


def test_folds_of_both_resolutions_are_no_ensemble(results):
    shutil.copytree(results / "default-low" / "fold_0", results / "default" / "fold_2")
    with pytest.raises(UserError, match="resolution"):
        load(results, folds=None)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "fold 0 of .* is not validated"),
        ({"Front_Part": 1.0, "back": 0.9}, "found back in 90% of the cases"),
        ({"Front_Part": 0.5, "back": 0.9}, "found Front_Part in 50%, back in 90%|found back in 90%, Front_Part in 50%"),
    ],
)
def test_a_low_resolution_that_misses_structures_is_no_guide(results, mark_validated, found, reason):
    """It would hide them from the full resolution. By itself it can still be used."""
    mark_validated(results / "default-low" / "fold_0", **found)
    model = load(results)
    assert model.prepare(SegmentOptions()).guide is None
    assert any(re.search(f"does not guide.*{reason}", note) for note in model.notes)
    assert model.serving("fast") is model.low


def test_a_guide_is_judged_by_its_worst_fold(results, make_plan, make_fold, bank, mark_validated):
    """The note names the least share of each label."""
    low = results / "default-low"
    make_fold(low / "fold_1", make_plan(resolution="low", spacing=(2, 2, 2)), bank, 8)
    mark_validated(low / "fold_0", Front_Part=0.5, back=1.0)
    mark_validated(low / "fold_1", Front_Part=0.8, back=0.9)
    (reason,) = (note for note in load(results, ("0", "1")).notes if "does not guide" in note)
    assert "found Front_Part in 50%, back in 90% of the cases" in reason


def test_other_weights_than_the_validated_ones_are_no_guide(results):
    assert why_no_guide(replace(load(results).low.ensemble, checkpoint="latest")).startswith("its weights are those of")


def test_a_guide_that_finds_nearly_everything_is_used(results):
    model = load(results)
    assert model.prepare(SegmentOptions()).guide is not None
    assert not any("does not guide" in note for note in model.notes)


def test_a_guide_whose_weights_changed_is_not_validated(results):
    fold = results / "default-low" / "fold_0"
    (fold / "validated.json").write_text('{"version": 2, "weights": "other", "found": {"back": 1.0}}')
    assert load(results).prepare(SegmentOptions()).guide is None


def test_one_fold_is_guided_by_the_same_fold_alone(results, make_plan, make_fold, bank):
    """Another fold of low resolution may have been trained on its validation cases."""
    low = make_plan(resolution="low", spacing=(2, 2, 2))
    make_fold(results / "default-low" / "fold_1", low, bank, 8)
    assert tds.load(results / "default", device="cpu").low.ensemble.folds == ("0", "1")
    one = tds.load(results / "default" / "fold_1", device="cpu")
    assert one.ensemble.folder == results / "default" / "fold_1"
    assert one.low.ensemble.folds == ("1",)
