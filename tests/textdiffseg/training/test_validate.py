"""Quick validation counts known voxels alone."""

import torch

from plans.plan import Plan
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.training.validate import Overlap


def test_ignored_voxels_are_left_out(shapes_plan):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    slots = torch.randint(0, 3, (2, 4, 5, 6), generator=generator)
    labels, nothing = torch.tensor([[1, 2], [2, 0]]), torch.zeros(2, 1, 4)
    queries = Queries(labels, torch.zeros(2, 2, 4), nothing, torch.ones(2, 1, dtype=torch.bool))
    readout = readout_of(shapes_plan("default"))
    cut, hidden = Overlap(2, readout), Overlap(2, readout)
    cut.add(logits[:, :, 2:], slots[:, 2:], queries)
    slots[:, :2] = -1
    hidden.add(logits, slots, queries)
    assert cut.dice(("a", "b")) == hidden.dice(("a", "b"))
    assert hidden.sums[:, 1:].min() > 0


def test_labels_that_overlap_are_counted_each_by_itself(shapes_plan):
    numbers = torch.tensor([0, 1, 1, 2, 2, -1]).view(1, 1, 1, 6)
    z = torch.tensor([[0.0] * 6, [-1.0, 1, 1, 1, -1, 1], [-1.0, 1, -1, 1, 1, 1]]).view(1, 3, 1, 1, 6)
    empty = torch.zeros(1, 1, 4)
    queries = Queries(torch.tensor([[1, 2]]), torch.zeros(1, 2, 4), empty, torch.ones(1, 1, dtype=torch.bool))
    plan = Plan.model_validate(shapes_plan("default").model_dump() | {"regions": ((1, 2), (2,))})
    overlap = Overlap(2, readout_of(plan))
    overlap.add(z, numbers, queries)
    assert overlap.sums[:, 1:].tolist() == [[3, 2], [3, 3], [4, 2]]
