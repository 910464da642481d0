"""The counts of benchmarks/sides.py, on a model of known behaviour."""

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def sides(benchmark):
    return benchmark("sides")


def test_pairs_differ_only_by_left_and_right(sides):
    labels = ("brainstem", "right parotid gland", "Left_parotid_gland", "left eye", "upright device")
    assert sides.pairs_of_sides(labels) == [(2, 3)]


def counted(sides, monkeypatch, bank, answer, annotated=None):
    """The counts for a scan with front (label 1) at 0-9 and back (label 2) at 10-19 along one axis."""
    truth = np.repeat([1, 2, 0], 10).reshape(1, 1, 30)
    monkeypatch.setattr(sides, "predict", lambda predictor, scan, queries: answer(queries.labels[0].tolist()))
    predictor = SimpleNamespace(plan=SimpleNamespace(written_numbers=(1, 2), value_numbers=((1,), (2,))))
    scan = SimpleNamespace(truth=truth, annotated=annotated)
    return sides.count_swaps(predictor, bank, [scan], [(1, 2)])


def test_a_swap_is_a_mask_nearer_to_the_other_side(sides, monkeypatch, bank):
    def answer(numbers):
        """All labels together are right. Alone, both labels are found on the front side."""
        labels = np.repeat([1, 2, 0], 10).reshape(1, 1, 30)
        return labels if len(numbers) == 2 else np.where(labels == 1, numbers[0], 0)

    found = counted(sides, monkeypatch, bank, answer)
    expected = {"masks": 1, "swaps": 0, "found_neither": 0, "dice": 1.0, "dice_with_other_side": 0.0}
    assert found["together"] == {"front": expected, "back": expected}
    assert found["by_itself"]["front"] == expected
    assert found["by_itself"]["back"] == expected | {"swaps": 1, "dice": 0.0, "dice_with_other_side": 1.0}
    assert sides.verdict(found) == "fails"
    assert sides.verdict({"together": found["together"]}) == "holds"
    lost = found["together"]["front"] | {"masks": 16, "found_neither": 15}
    assert sides.verdict({"together": {"front": lost}}) == "cannot be told"


def test_empty_masks_are_no_evidence(sides, monkeypatch, bank):
    found = counted(sides, monkeypatch, bank, lambda numbers: np.zeros((1, 1, 30), int))
    assert found["together"]["front"]["found_neither"] == 1
    assert sides.verdict(found) == "cannot be told"


def test_a_scan_without_one_of_the_sides_is_left_out(sides, monkeypatch, bank):
    found = counted(sides, monkeypatch, bank, None, annotated=(1,))
    assert found["by_itself"]["back"] == {
        "masks": 0,
        "swaps": 0,
        "found_neither": 0,
        "dice": None,
        "dice_with_other_side": None,
    }
