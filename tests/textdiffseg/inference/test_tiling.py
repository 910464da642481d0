import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textdiffseg.inference.tiling import importance, tile


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    cells=st.tuples(*[st.integers(2, 6)] * 3),
    stride=st.tuples(*[st.sampled_from((1, 2, 4, 8))] * 3),
    overlap=st.sampled_from((0.0, 0.25, 0.5)),
)
def test_windows_cover_the_volume_on_the_latent_grid(shape, cells, stride, overlap):
    patch = tuple(count * unit for count, unit in zip(cells, stride, strict=True))
    tiling = tile(shape, patch, stride, overlap)
    for axis in range(3):
        starts = sorted({start[axis] for start in tiling.starts})
        assert all(start % stride[axis] == 0 for start in starts)
        assert tiling.padded[axis] % stride[axis] == 0
        assert starts[0] == 0
        assert starts[-1] + patch[axis] == tiling.padded[axis]
        step = max(stride[axis], patch[axis] * (1 - overlap))
        assert all(later - start <= step for start, later in itertools.pairwise(starts))
        assert 0 <= tiling.before[axis] <= tiling.padded[axis] - shape[axis]
    assert list(tiling.starts) == sorted(set(tiling.starts))


def test_padding_and_interior_are_inverse():
    image = torch.rand(2, 5, 30, 9)
    tiling = tile((5, 30, 9), (8, 16, 16), (2, 4, 4))
    padded = tiling.pad(image)
    assert padded.shape[1:] == tiling.padded
    assert torch.equal(padded[:, *tiling.interior], image)
    assert padded.abs().sum() == pytest.approx(float(image.abs().sum()), rel=1e-5)


def test_a_window_and_its_latent_window_cover_the_same_place():
    tiling = tile((15, 27, 21), (8, 16, 16), (2, 4, 4))
    for start in tiling.starts:
        for voxels, positions, unit in zip(
            tiling.window(start), tiling.latent_window(start), tiling.stride, strict=True
        ):
            assert (positions.start * unit, positions.stop * unit) == (voxels.start, voxels.stop)


def test_importance_is_largest_in_the_middle_and_symmetric():
    weight = importance((8, 16, 15))
    assert weight.max() == 1
    assert weight.min() > 0
    for axis in range(3):
        torch.testing.assert_close(weight, weight.flip(axis))
    assert weight[4, 8, 7] == weight.max()


def test_overlap_is_checked():
    with pytest.raises(ValueError, match="overlap"):
        tile((8, 8, 8), (8, 8, 8), (2, 2, 2), 1.0)
