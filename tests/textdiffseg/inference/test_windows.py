"""Sums over windows, and the slabs that leave them."""

from dataclasses import replace

import pytest
import torch

from plans.errors import UserError
from plans.planning import scan_memory
from textdiffseg.inference import windows
from textdiffseg.inference.tiling import importance, tile
from textdiffseg.inference.windows import SlabSums, WindowGroup, WindowInputs, joined
from textdiffseg.queries import Queries


@pytest.fixture(params=[(15, 27, 5), (40, 16, 20), (3, 40, 40)])
def tiling(request):
    return tile(request.param, (8, 16, 8), (2, 4, 4))


def inputs(tiling, slots=2, uncertainty=False):
    width = torch.zeros(1, slots, 4)
    queries = Queries(torch.ones(1, slots, dtype=torch.long), width, width, torch.ones(1, slots, dtype=torch.bool))
    image, noise, factors = torch.zeros(1, *tiling.padded), torch.zeros(1), torch.zeros(1, 0)
    return WindowInputs(tiling, image, noise, factors, queries, slots, uncertainty)


def predictions(tiling, classes=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(classes, *tiling.patch, generator=generator).softmax(0) for _ in tiling.starts]


def slabs_of(tiling, found, uncertainty=False, size=2):
    sums, slabs = SlabSums(inputs(tiling, len(found[0]) - 1, uncertainty)), []
    for first in range(0, len(found), size):
        p = torch.stack(found[first : first + size])
        maps = p[:, :2].transpose(0, 1) if uncertainty else None
        slabs += sums.add(WindowGroup(tiling.starts[first : first + size], p, maps))
    return slabs + list(sums.finish())


def mean(tiling, found):
    """sum g p / sum g of the whole volume at once."""
    g, sums, total = importance(tiling.patch), torch.zeros(len(found[0]), *tiling.padded), torch.zeros(tiling.padded)
    for start, p in zip(tiling.starts, found, strict=True):
        sums[:, *tiling.window(start)] += g * p
        total[tiling.window(start)] += g
    return (sums / total)[:, *tiling.interior]


@pytest.mark.parametrize("planes", [1, 3, 1000])
def test_slabs_are_the_weighted_mean_of_the_windows_of_each_plane_once(tiling, planes, monkeypatch):
    monkeypatch.setattr(scan_memory, "SLAB_BYTES", 4 * 3 * tiling.padded[1] * tiling.padded[2] * planes)
    found = predictions(tiling)
    slabs = slabs_of(tiling, found, uncertainty=True)
    depths = [slab.prediction.probabilities.shape[1] for slab in slabs]
    assert [slab.first for slab in slabs] == [sum(depths[:i]) for i in range(len(depths))]
    assert max(depths) <= min(planes, tiling.patch[0])
    whole, expected = joined(slabs, tiling.shape), mean(tiling, found)
    torch.testing.assert_close(whole.probabilities, expected)
    torch.testing.assert_close(whole.between_samples, expected[0])
    torch.testing.assert_close(whole.between_folds, expected[1])


def test_large_sums_are_kept_in_float16_and_agree(tiling, monkeypatch):
    found = predictions(tiling)
    monkeypatch.setattr(scan_memory, "MAX_SUMS_BYTES", 100)
    assert SlabSums(inputs(tiling)).probabilities.dtype == torch.float16
    p = joined(slabs_of(tiling, found), tiling.shape).probabilities
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, mean(tiling, found), atol=2e-3, rtol=0)


def test_output_that_is_not_finite_is_an_error_before_its_slab_leaves(tiling):
    found = predictions(tiling)
    found[-1][0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        slabs_of(tiling, found)
    assert windows.NOT_FINITE.endswith("train them again.")


def test_a_voxel_in_no_window_is_background_and_the_others_are_the_mean_of_their_windows(tiling):
    """DESIGN 4: where low resolution found nothing, full resolution is not computed."""
    found, first, last = predictions(tiling), tiling.starts[0], tiling.starts[-1]
    kept = replace(tiling, starts=tuple(dict.fromkeys((first, last))))
    some = joined(slabs_of(kept, [found[0], found[-1]][: len(kept.starts)], uncertainty=True), tiling.shape)
    expected = mean(kept, [found[0], found[-1]][: len(kept.starts)])
    empty = expected[0].isnan()
    assert empty.any() == (len(tiling.starts) > 2)
    background = torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    torch.testing.assert_close(some.probabilities, torch.where(empty, background, expected))
    torch.testing.assert_close(some.between_samples, expected[0].masked_fill(empty, 0))


def test_without_any_window_all_is_background(tiling):
    nothing = list(SlabSums(inputs(replace(tiling, starts=()))).finish())
    whole = joined(nothing, tiling.shape).probabilities
    assert torch.equal(whole[0], torch.ones(tiling.shape))
    assert torch.equal(whole[1:], torch.zeros(2, *tiling.shape))


@pytest.mark.parametrize("part", ["_add", "_means"])
def test_sums_for_which_the_device_has_no_room_move_to_the_host_and_nothing_is_lost(tiling, part, monkeypatch):
    found = predictions(tiling)
    expected, moved, plain = joined(slabs_of(tiling, found), tiling.shape), [], getattr(SlabSums, part)

    def full(self, *given):
        if not moved:
            raise torch.OutOfMemoryError
        return plain(self, *given)

    monkeypatch.setattr(SlabSums, part, full)
    monkeypatch.setattr(SlabSums, "on_host", property(lambda _: bool(moved)))
    monkeypatch.setattr(SlabSums, "to", lambda _, device: moved.append(device))
    assert torch.equal(joined(slabs_of(tiling, found), tiling.shape).probabilities, expected.probabilities)
    assert moved == ["cpu"]


def test_on_the_host_full_memory_is_an_error(tiling, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(SlabSums, "_means", full)
    with pytest.raises(torch.OutOfMemoryError):
        slabs_of(tiling, predictions(tiling))
