"""Overlapping labels: masks, probabilities and the written label."""

import numpy as np
import torch

from textdiffseg.imaging.classes import last_above_half
from textdiffseg.queries import Queries
from textdiffseg.regions import masks, members, probabilities, region_logits, written

PARTS = ((1, 2, 3), (2, 3), (3,))  # whole, core, rim


def queries(labels):
    labels = torch.tensor(labels)
    batch, count = labels.shape
    return Queries(
        labels, torch.zeros(batch, count, 4), torch.zeros(batch, 1, 4), torch.ones(batch, 1, dtype=torch.bool)
    )


def test_a_voxel_belongs_to_every_label_with_its_value_number():
    numbers = torch.tensor([0, 1, 2, 3, -1]).expand(2, 1, 1, 5)
    found = masks(numbers, members(queries([[1, 2, 3], [3, 1, 0]]), PARTS))[:, :, 0, 0, :4].int().tolist()
    whole, core, rim = [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]
    assert found == [[whole, core, rim], [rim, whole, [0, 0, 0, 0]]]


def test_the_probability_of_a_single_label_equals_a_softmax():
    logits = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(logits), logits.softmax(1))


def test_labels_do_not_compete():
    logits = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    p = probabilities(logits)
    for slot in (1, 2, 3):
        torch.testing.assert_close(p[:, slot], logits[:, [0, slot]].softmax(1)[:, 1])
    torch.testing.assert_close(p[:, 0], 1 - p[:, 1:].max(1).values)
    assert torch.equal(region_logits(logits) > 0, p[:, 1:] > 0.5)


def test_the_last_label_above_one_half_is_written_as_in_masks():
    p = probabilities(torch.randn(1, 4, 3, 4, 5, generator=torch.Generator().manual_seed(0)))[0]
    found = written(p)
    assert found.unique().tolist() == [0, 1, 2, 3]
    assert np.array_equal(found.numpy(), last_above_half(p[1:].numpy(), [None] * 3))
