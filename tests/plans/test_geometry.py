import pytest

from plans.geometry import millimetres, triple


def test_three_values_become_a_tuple_in_their_order():
    assert triple(edge * 2 for edge in (3, 1, 2)) == (6, 2, 4)
    assert millimetres([3.0, 0.5, 0.5]) == (3.0, 0.5, 0.5)


@pytest.mark.parametrize("make", [triple, millimetres])
@pytest.mark.parametrize("values", [(), (1, 2), (1, 2, 3, 4)])
def test_any_other_number_of_values_is_refused(make, values):
    with pytest.raises(ValueError, match=r"expected three .*\(D, H, W\), found \("):
        make(values)
