"""The random parameters of a training step in constant shapes."""

from plans.network_plan import DiffusionPlan
from textdiffseg.data.batch import batch_keys
from textdiffseg.training.draws import draw, max_recycled


def test_the_number_of_recycled_samples_has_a_maximum():
    plan = DiffusionPlan(terminal_share=0.5, recycling=0.5)
    drawn = [draw(plan, (2, 4, 4, 4), seed, batch_keys(0, 0, 6)) for seed in range(200)]
    counts = [int(one.recycled.sum()) for one in drawn]
    assert max(counts) == max_recycled(plan, 6) == 3
    assert 1.2 < sum(counts) / len(counts) < 1.6, "a quarter of six, less what found no room"
    for one in drawn:
        assert one.recycled[one.estimated].all()
        assert one.recycled.sum() == len(one.estimated)
        assert set(one.estimated.tolist()) <= set(one.of_one_size(plan).estimated.tolist())
