"""Exclusive and overlapping labels: the rules of both, and a check that no other module branches on them."""

import ast

import numpy as np
import pytest
import torch

from textdiffseg.imaging.volume import Volume
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.queries import Queries
from textdiffseg.readout import ExclusiveReadout, OverlappingReadout, readout_of
from textdiffseg.temperature import SampledVoxels

ROOMS = ("training", "inference", "validation", "folds", "tasks")
ABOVE = (*(f"textdiffseg/{room}" for room in ROOMS), "textdiffseg_cli")
KNOWN = {"regions", "paper", "overlapping"}


@pytest.fixture(scope="module")
def exclusive(plan):
    return readout_of(plan)


@pytest.fixture(scope="module")
def nested(plan):
    """The first label contains the second. The values 3 and 7 have the value numbers 1 and 2."""
    return readout_of(plan.model_copy(update={"regions": ((3, 7), (3,))}))


@pytest.fixture
def logits():
    return 2 * torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def queries(labels):
    labels = torch.tensor(labels)
    batch, count = labels.shape
    return Queries(
        labels, torch.zeros(batch, count, 4), torch.zeros(batch, 1, 4), torch.ones(batch, 1, dtype=torch.bool)
    )


def test_a_plan_has_the_readout_of_its_labels(exclusive, nested):
    assert type(exclusive) is ExclusiveReadout
    assert type(nested) is OverlappingReadout


def test_targets_are_slots_or_value_numbers(exclusive, nested):
    label_map, label_queries = torch.tensor([0, 1, 2, -1], dtype=torch.int16).view(1, 1, 1, 4), queries([[2, 1]])
    assert exclusive.targets(label_map, label_queries).flatten().tolist() == [0, 2, 1, -1]
    assert nested.targets(label_map, label_queries).flatten().tolist() == [0, 1, 2, -1]
    assert nested.targets(label_map, label_queries).dtype == torch.int64


def test_a_perfect_prediction_has_no_loss_and_the_true_masks(exclusive, nested):
    label_map, label_queries = (
        torch.randint(-1, 3, (1, 4, 5, 6), generator=torch.Generator().manual_seed(0)),
        queries([[2, 1]]),
    )
    there = {exclusive: [label_map == 2, label_map == 1], nested: [label_map == 1, label_map > 0]}
    for readout, true in there.items():
        targets = readout.targets(label_map, label_queries)
        seen = [mask | (label_map < 0) for mask in true]  # where to ignore, something is found
        logits = 60.0 * torch.stack((torch.full_like(true[0], 0.5, dtype=torch.float32), *seen), 1)
        assert readout.loss(logits, targets, label_queries) < 1e-3
        assert readout.loss(-logits, targets, label_queries) > 1
        found = list(readout.masks(logits, targets, label_queries))
        assert len(found) == 2
        for (predicted, reference), expected in zip(found, true, strict=True):
            assert torch.equal(predicted, expected)
            assert torch.equal(reference, expected)


def test_both_losses_can_count_classes_alike(exclusive, nested, logits):
    label_map, label_queries = torch.zeros(2, 4, 5, 6, dtype=torch.int64), queries([[1, 2], [1, 2]])
    label_map[:, 0, 0, 0] = 1
    for readout in (exclusive, nested):
        targets = readout.targets(label_map, label_queries)
        plain, more = (readout.loss(logits, targets, label_queries, balance) for balance in (0.0, 1.0))
        assert more > plain + 0.1


@pytest.mark.parametrize("shape", [(2, 4, 16, 24, 20), (1, 118, 5, 7, 3), (1, 2, 3, 1, 1)])
def test_consumed_logits_give_the_same_probabilities_to_the_last_bit(exclusive, nested, shape):
    logits = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    transposed = logits.transpose(2, 4)
    for readout in (exclusive, nested):
        for given in (logits, transposed, logits.bfloat16()):
            with torch.inference_mode():
                assert torch.equal(readout.probabilities_in_place(given.clone()), readout.probabilities(given))


def test_rivals_count_as_background_for_exclusive_labels(exclusive, nested, logits):
    p = exclusive.probabilities(logits)
    torch.testing.assert_close(p.sum(1), torch.ones(2, 4, 5, 6))
    kept = exclusive.keep_first(p, 1, 1)
    assert torch.equal(kept[:, 1], p[:, 1])
    torch.testing.assert_close(kept[:, 0], p[:, 0] + p[:, 2])
    alone = nested.keep_first(nested.probabilities(logits), 1, 1)
    torch.testing.assert_close(alone, nested.probabilities(logits[:, :2]))
    assert exclusive.keep_first(p, 2, 1) is p


def test_the_restored_mask_equals_the_winner_on_the_plan_s_grid(exclusive, nested, make_geometry, plan):
    _, transform = preprocess_image(Volume(np.ones((1, 9, 20, 17), np.float32), make_geometry((9, 20, 17))), plan)
    same = transform.model_copy(update={"shape": transform.cropped_shape})
    logits = 2 * torch.randn(1, 3, *same.shape, generator=torch.Generator().manual_seed(1))
    for readout in (exclusive, nested):
        p = readout.probabilities(logits)[0]
        restoring = readout.restoring(same)
        restoring.add(readout.classes_to_compare(p.numpy()))
        restored = same.orientation.apply(restoring.finish())
        assert np.array_equal(restored, readout.winner(p).numpy())
        assert set(np.unique(restored)) == {0, 1, 2}


def test_a_temperature_works_in_place_and_changes_no_mask(exclusive, nested, logits):
    for readout in (exclusive, nested):
        p = readout.probabilities(logits)[0]
        before, winner = readout.entropy(p, 0).mean(), readout.winner(p)
        readout.temper(p.numpy(), 3.0)
        assert readout.entropy(p, 0).mean() > before
        assert torch.equal(readout.winner(p), winner)


def test_a_temperature_is_fitted_to_classes_or_to_each_label_against_its_absence(exclusive, nested):
    voxels = SampledVoxels(np.full((3, 4), 1 / 3, np.float32), np.array([0, 1, 2, 2]))
    assert exclusive.calibration_voxels(voxels, (1, 2)) is voxels
    assert nested.calibration_voxels(voxels, (1, 2)).truth.tolist() == [0, 1, 1, 1, 0, 1, 0, 0]


def test_only_exclusive_labels_have_rivals(exclusive, nested):
    assert exclusive.rivals([2]) == (1,)
    assert nested.rivals([2]) == ()


def test_prompts_of_overlapping_labels_follow_the_data_set_s_order(exclusive, nested):
    found = [(2, 0), (1, 0)]
    assert exclusive.slot_order(found) == (0, 1)
    assert nested.slot_order(found) == (1, 0)
    assert nested.slot_order([(2, 0), None]) == (0, 1), "an unknown phrase has no place in that order"


def test_no_other_room_branches_on_overlapping_labels(repository):
    """A plan's `regions` and `paper` are read where networks, readouts and objectives are built, and nowhere else."""
    allowed = {("objectives.py", "paper"), ("plan.py", "regions")}  # a data set's regions become a plan's
    for path in [path for room in ABOVE for path in sorted((repository / room).rglob("*.py"))]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        assert {(path.name, name) for name in names & KNOWN} <= allowed, path
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not modules & {"textdiffseg.regions", "plans.regions"}, path
