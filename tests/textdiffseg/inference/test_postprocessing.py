import numpy as np
import pytest

import textdiffseg as tds
from plans.layout import FoldFolder
from textdiffseg.files import write_record
from textdiffseg.folds.postprocessing import Postprocessing, PostprocessingTrial, PostprocessingTrials
from textdiffseg.folds.weights import hash_weights
from textdiffseg.inference.postprocessing import postprocess
from textdiffseg.inference.segmenting import EMPTY_NOTE
from textdiffseg.tasks.manifest import Manifest

LARGEST, HOLES = Postprocessing(components="largest"), Postprocessing(fill_holes=True)


def shell(size=5):
    """A cube of slot 1 with a hole of one voxel in its middle."""
    mask = np.zeros((size + 2,) * 3, np.int16)
    mask[1:-1, 1:-1, 1:-1] = 1
    mask[size // 2 + 1, size // 2 + 1, size // 2 + 1] = 0
    return mask


def test_small_components_become_background_and_holes_the_label(make_plan):
    mask = np.pad(shell(), ((0, 3), (0, 0), (0, 0)))
    mask[-1, 0, 0], mask[-1, 6, 6] = 1, 2
    postprocess(mask, make_plan(), (1, 2), {"Front_Part": LARGEST, "back": LARGEST}, 1.0)
    assert mask[-1, 0, 0] == 0
    assert mask[-1, 6, 6] == 2
    assert mask[3, 3, 3] == 0
    postprocess(mask, make_plan(), (1, 2), {"Front_Part": HOLES}, 1.0)
    assert mask[3, 3, 3] == 1


def test_a_hole_that_holds_another_label_is_not_filled(make_plan):
    mask = shell()
    mask[3, 3, 3] = 2
    postprocess(mask, make_plan(), (1, 2), {"Front_Part": HOLES}, 1.0)
    assert mask[3, 3, 3] == 2


def test_components_of_all_labels_are_dropped_before_holes_are_filled(make_plan):
    mask = shell()
    mask[3, 3, 3] = 2  # a false voxel of the other label
    steps = {"Front_Part": HOLES, "back": Postprocessing(least_ml=1.5)}
    postprocess(mask, make_plan(), (1, 2), steps, 1.0)
    assert mask[3, 3, 3] == 1


def test_slots_may_have_any_order_and_forced_phrases_stay(make_plan):
    mask = np.pad(shell(), ((0, 3), (0, 0), (0, 0)))
    mask[-1, 0, 0], mask[-1, 6, 6] = 1, 2
    before = mask.copy()
    postprocess(mask, make_plan(), (3, 1), {"Front_Part": LARGEST, "back": LARGEST}, 1.0)
    assert (mask == before).all(), "slot 1 is a forced phrase, slot 2 has one component"
    postprocess(mask, make_plan(), (1, 2), {"Front_Part": LARGEST}, 1.0)
    assert np.count_nonzero(mask != before) == 1


def test_a_whole_that_contains_its_parts_is_one_component(make_plan):
    labels = ({"name": "whole", "value": 1}, {"name": "core", "value": 2})
    plan = make_plan(labels=labels, regions=((1, 2), (2,)), diffusion=None, preset="unet")
    mask = np.zeros((3, 9, 9), np.int16)
    mask[1, 1, 1:8] = (1, 1, 2, 2, 2, 1, 1)  # the core divides the rest of the whole
    mask[1, 6, 1:3] = (1, 2)
    postprocess(mask, plan, (1, 2), {"whole": LARGEST}, 1.0)
    assert mask[1, 1, 1:8].tolist() == [1, 1, 2, 2, 2, 1, 1]
    assert not mask[1, 6].any()


@pytest.mark.parametrize(
    ("regions", "dropped", "line", "expected"),
    [
        (((1, 2, 3), (2, 3), (3,)), "core", [1, 2, 3, 2, 1, 3, 1], [1, 2, 3, 2, 1, 1, 1]),
        (((1, 2, 3), (2, 3), (3,)), "spot", [1, 3, 2, 3, 3, 1, 0], [1, 2, 2, 3, 3, 1, 0]),
        (((1, 3), (2, 3), (3,)), "whole", [1, 1, 2, 2, 3, 2, 2], [1, 1, 2, 2, 2, 2, 2]),
    ],
    ids=["nested", "innermost", "crossed"],
)
def test_a_voxel_that_loses_a_label_keeps_its_others(make_plan, regions, dropped, line, expected):
    """Three labels; the third one of the last case is what the other two share."""
    labels = [{"name": name, "value": value} for value, name in enumerate(("whole", "core", "spot"), start=1)]
    plan = make_plan(labels=labels, regions=regions, diffusion=None, preset="unet")
    mask = np.zeros((3, 3, 9), np.int16)
    mask[1, 1, 1:8] = line
    postprocess(mask, plan, (1, 2, 3), {dropped: LARGEST}, 1.0)
    assert mask[1, 1, 1:8].tolist() == expected


def model_that_gained(root, plan, gained):
    """A model whose validation gained by one step on both labels."""
    scores = {Postprocessing(): 0.5, gained: 1.0}
    rows = [PostprocessingTrial(step=step, dice=(dice,) * 4) for step, dice in scores.items()]
    folder = root / "results" / plan.dataset / "default"
    for fold in (FoldFolder(folder / f"fold_{number}") for number in (0, 1)):
        labels = {label.name: tuple(rows) for label in plan.labels}
        write_record(fold.postprocessing, PostprocessingTrials(weights=hash_weights(fold, "best"), labels=labels))
    return tds.load(folder, device="cpu")


@pytest.fixture
def model(root, plan):
    return model_that_gained(root, plan, LARGEST)


def test_a_mask_that_loses_everything_is_reported_as_empty(tmp_path, root, plan, make_scan):
    make_scan(tmp_path / "a.nii.gz")
    result = model_that_gained(root, plan, Postprocessing(least_ml=1e6)).segment(tmp_path / "a.nii.gz")
    assert not result.labels.any()
    assert EMPTY_NOTE in result.notes
    raw = tds.load(root / "results" / plan.dataset / "default", device="cpu")
    assert EMPTY_NOTE not in raw.segment(tmp_path / "a.nii.gz", postprocessing=False).notes


def test_the_mask_and_its_volumes_are_postprocessed(tmp_path, model, make_scan, plan):
    make_scan(tmp_path / "a.nii.gz")
    raw = model.segment(tmp_path / "a.nii.gz", postprocessing=False)
    result = model.segment(tmp_path / "a.nii.gz")
    numbers = {0: 0, 7: 1, 3: 2}
    slots = np.vectorize(numbers.get)(raw.labels).astype(np.int16)
    postprocess(slots, plan, (1, 2), model.ensemble.postprocessing, 1.0)
    assert (np.array([0, 7, 3])[slots] == result.labels).all()
    assert (raw.labels != result.labels).any()
    for name, value in model.labels.items():
        voxels = np.count_nonzero(result.labels == value)
        assert result.volumes[name].volume_ml == pytest.approx(voxels * np.prod(result.geometry.spacing) / 1000)


def test_a_label_is_postprocessed_alike_if_it_is_queried_alone(tmp_path, model, make_scan):
    make_scan(tmp_path / "a.nii.gz")
    together = model.segment(tmp_path / "a.nii.gz")
    for name in model.labels:
        assert (model.segment(tmp_path / "a.nii.gz", prompts=[name]).mask(name) == together.mask(name)).all()


def test_the_manifest_names_the_steps_and_other_steps_are_predicted_again(tmp_path, model, make_scan):
    make_scan(tmp_path / "a.nii.gz")
    lines = []
    assert tds.predict(tmp_path / "a.nii.gz", tmp_path / "out", model=model, report=lines.append).written == ["a"]
    assert Manifest.read(tmp_path / "out" / "a.json").request.postprocessing == dict.fromkeys(model.labels, LARGEST)
    assert [line for line in lines if "--no-postprocessing" in line] == [
        "Postprocessing, as validation gained by it: Front_Part: keep the largest component; back: keep the largest "
        "component. To leave it out: --no-postprocessing."
    ]
    assert tds.predict(tmp_path / "a.nii.gz", tmp_path / "out", model=model).skipped == ["a"]
    plain = tds.SegmentOptions(postprocessing=False)
    assert tds.predict(tmp_path / "a.nii.gz", tmp_path / "out", model=model, options=plain).written == ["a"]
