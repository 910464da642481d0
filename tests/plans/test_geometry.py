import numpy as np
import pytest

from plans.geometry import cumulative, lengthened, millimetres, resampled_shape, triple


def test_three_values_become_a_tuple_in_their_order():
    assert triple(edge * 2 for edge in (3, 1, 2)) == (6, 2, 4)
    assert millimetres([3.0, 0.5, 0.5]) == (3.0, 0.5, 0.5)


@pytest.mark.parametrize("make", [triple, millimetres])
@pytest.mark.parametrize("values", [(), (1, 2), (1, 2, 3, 4)])
def test_any_other_number_of_values_is_refused(make, values):
    with pytest.raises(ValueError, match=r"expected three .*\(D, H, W\), found \("):
        make(values)


def test_strides_of_stages_multiply_along_each_axis():
    assert cumulative([]) == (1, 1, 1)
    assert cumulative(stride for stride in [(1, 1, 1), (1, 2, 2), (2, 2, 2)]) == (2, 4, 4)


def test_one_axis_becomes_longer_or_shorter():
    assert lengthened((4, 8, 16), 1, 8) == (4, 16, 16)
    assert lengthened((4, 8, 16), 2, -4) == (4, 8, 12)


@pytest.mark.parametrize("size", [35, 45, 135, 1005])
@pytest.mark.parametrize("spacing", [1.1, 0.7, 0.3])
def test_the_grid_of_a_size_at_a_half_is_one_for_all_formats(size, spacing):
    """DICOM and MetaImage keep decimal digits, NIfTI single precision."""
    exact, single = (float(kind(spacing)) for kind in (np.float64, np.float32))
    spacings = (exact, single, exact * (1 + 1e-6), exact * (1 - 1e-6))
    assert len({resampled_shape((size,) * 3, (step,) * 3, (1.0, 1.0, 1.0)) for step in spacings}) == 1


def test_sizes_that_are_not_at_a_half_are_rounded_to_the_nearest():
    assert resampled_shape((35, 100, 3), (1.1, 0.996, 0.1), (1.0, 1.0, 1.0)) == (38, 100, 1)
    assert resampled_shape((38, 39, 1001), (1.0, 1.0, 1.0), (1.013, 1.013, 2.0)) == (38, 38, 500)
