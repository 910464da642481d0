"""The overview of a scan: its cells, their places relative to a window, and what the network makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plans.network_plan import OverviewPlan
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.overview import Overview, cell_offsets, reduced, stacked

SMALL = OverviewPlan(edge=8, widths=(4, 8))


@pytest.fixture
def reading(plan, make_model):
    return make_model(plan.model_copy(update={"overview": SMALL}), 0)


def overview_of(image, start, patch, edge=8, cells=2, matrix=None):
    where = cell_offsets(image.shape[1:], start, patch, cells, matrix)
    return Overview(reduced(image, edge)[None], where[None], torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(2, 5, 20, 33), (1, 32, 16, 8), (1, 3, 3, 3), (1, 75, 9, 8), (1, 200, 8, 8)])
def test_cells_are_means_whatever_the_shape(shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool3d(image, (8, 8, 8))
    torch.testing.assert_close(reduced(image, 8), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(reduced(image.numpy(), 8), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("depth", "edge"), [(64, 8), (200, 32), (75, 32), (30, 32)])
def test_an_image_on_disk_is_read_in_blocks_and_at_most_twice(depth, edge):
    class OnDisk:
        shape, read, most = (1, depth, 16, 16), 0, 0

        def __getitem__(self, box):
            planes = box[1].stop - box[1].start
            self.read, self.most = self.read + planes, max(self.most, planes)
            return np.zeros((1, planes, 16, 16), np.float16)

    image = OnDisk()
    assert reduced(image, edge).shape == (1, edge, edge, edge)
    assert image.most <= 64
    assert image.read <= 2 * depth


def test_places_by_hand():
    """Two cells along each of 16, 8, 4 voxels. Their centres lie at 3.5 and 11.5, 1.5 and 5.5, 0.5 and 2.5."""
    found = cell_offsets((16, 8, 4), (8, -2, 0), (8, 4, 4), 2)
    assert found[0, 0, 0].tolist() == pytest.approx([(3.5 - 11.5) / 8, (1.5 + 0.5) / 4, (0.5 - 1.5) / 4])
    assert found[1, 1, 1].tolist() == pytest.approx([0, (5.5 + 0.5) / 4, (2.5 - 1.5) / 4])


def test_a_rotated_window_sees_the_places_turned():
    """`matrix` maps offsets in the window to offsets in the scan. The place must lead to the same point."""
    rng = np.random.default_rng(0)
    matrix, patch = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [1.2, 0.9, 1.1], np.array([8, 12, 10])
    straight, turned = (cell_offsets((30, 20, 24), (4, 5, 6), tuple(patch), 4, one) for one in (None, matrix))
    back = (turned.double().numpy() * patch) @ matrix.T
    assert np.allclose(back, straight.double().numpy() * patch, atol=1e-4)


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 1, 2)])
def test_a_mirrored_window_is_a_window_of_the_mirrored_scan(axes):
    image, patch, start = torch.randn(1, 16, 24, 32), (8, 8, 16), (2, 4, 10)
    mirrored = image.flip([axis + 1 for axis in axes]) if axes else image
    other = tuple(
        image.shape[1 + axis] - patch[axis] - start[axis] if axis in axes else start[axis] for axis in range(3)
    )
    found, expected = overview_of(image, start, patch).flip(axes), overview_of(mirrored, other, patch)
    torch.testing.assert_close(found.image, expected.image)
    torch.testing.assert_close(found.offsets, expected.offsets)


def test_batches_and_samples(bank):
    one, other = (overview_of(torch.full((1, 8, 8, 8), value), (0, 0, 0), (8, 8, 8)) for value in (1.0, 2.0))
    both = stacked([one, other])
    assert both.image[:, 0, 0, 0, 0].tolist() == [1, 2]
    assert torch.equal(both.of(torch.tensor([1])).image, other.image)
    assert stacked([None, None]) is None
    queries = replace(bank.all_labels(), overview=one)
    assert queries.to("cpu").overview is not None
    assert queries.of(torch.tensor([0])).overview is not None
    assert queries.expand(3).overview is None, "each window has its own"


def test_the_network_reads_the_scan_outside_its_window(reading, bank):
    patch = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    scan = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(2))
    brighter = scan.clone()
    brighter[:, 8:] += 3

    def fused(image, start=(0, 0, 0), known=True):
        overview = replace(overview_of(image, start, (8, 16, 16)), known=torch.tensor([known]))
        z_i, _ = reading.encode_image(patch)
        with torch.no_grad():
            return reading.fuse(z_i, replace(bank.all_labels(), overview=overview))

    assert not torch.allclose(fused(scan), fused(brighter), atol=1e-4)
    assert not torch.allclose(fused(scan), fused(scan, (8, 0, 0)), atol=1e-4), "the window's place matters"
    torch.testing.assert_close(fused(scan, known=False), fused(brighter, known=False))
    with pytest.raises(ValueError, match="overview"):
        reading.fuse(reading.encode_image(patch)[0], bank.all_labels())


def test_prediction_gives_each_window_its_own_place(reading, bank, image):
    """In a scan of several windows. The same voxels outside a window change its prediction."""
    predictor = Predictor([reading], PredictionSettings(mirror_axes=(0, 2)))
    changed = image.clone()
    changed[:, :, :, -1] += 20  # no window at the start of W reaches it
    first, second = (predictor.predict_image(one, bank.all_labels()).probabilities for one in (image, changed))
    assert not torch.equal(first[..., :2], second[..., :2])
    plain = Predictor([reading], PredictionSettings())
    volume = plain._inputs(image, bank.all_labels(), range(1), 2, False)
    found = volume.overviews(volume.tiling.starts[:2], SMALL.cells)
    expected = [
        cell_offsets(tuple(image.shape[1:]), start, (8, 16, 16), SMALL.cells) for start in volume.tiling.starts[:2]
    ]
    torch.testing.assert_close(found.offsets, torch.stack(expected))


def test_samples_read_the_overview_too(reading, bank, image):
    predictor = SamplePredictor([reading], PredictionSettings(steps=2, samples=2))
    changed = image.clone()
    changed[:, :, :, -1] += 20
    first, second = (
        next(iter(predictor.sample_slabs(one, bank.all_labels(), [0, 1])))[0].prediction.probabilities
        for one in (image, changed)
    )
    assert not torch.equal(first[..., :2], second[..., :2])


def test_a_plan_s_overview_divides_by_its_blocks():
    assert OverviewPlan().cells == 4
    with pytest.raises(ValueError, match="divisible"):
        OverviewPlan(edge=36)
