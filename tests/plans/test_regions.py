"""Overlapping labels: values, value numbers, and the checks of a plan."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plans.errors import UserError
from plans.plan import LabelPlan, TextPlan
from plans.planning.budget import cpu_budget
from plans.planning.planner import make_plan
from plans.regions import faults_of_order, numbered, values_of

TUMOUR = ((1, 2, 4), (2, 4), (4,))


def planned(make_fingerprint, regions=TUMOUR, values=(1, 2, 4), preset="default"):
    labels = [LabelPlan(name=name, value=value) for name, value in zip(("whole", "core", "rim"), values, strict=True)]
    fingerprint = make_fingerprint((40, 40, 40), (1, 1, 1), thickness=(20.0, 9.0, 3.0))
    text = TextPlan(encoder="bundled", width=8)
    choices = {"budget": cpu_budget(1), "preset": preset, "text": text, "regions": regions}
    return make_plan("d", ("MRI",), labels, fingerprint, **choices)


def test_value_numbers_count_the_values_of_all_regions():
    assert values_of(TUMOUR) == (1, 2, 4)
    assert numbered(TUMOUR) == ((1, 2, 3), (2, 3), (3,))
    assert numbered(((9,), (7, 9))) == ((2,), (1, 2))


def written_value(regions: dict, order: tuple, value: int) -> int:
    """The value that nnU-Net writes for a voxel of the reference: that of the last region with this value."""
    written = 0
    for region, writes in zip(regions.values(), order, strict=True):
        written = writes if value in region else written
    return written


def members(regions: dict, value: int) -> set:
    return {name for name, region in regions.items() if value in region}


@pytest.mark.parametrize(
    ("regions", "order", "words"),
    [
        ({"whole": (1, 2, 4), "core": (2, 4), "rim": (4,)}, (1, 2, 4), ()),
        ({"whole": (1, 2, 3), "core": (2, 3)}, (1, 3), ()),  # these labels do not distinguish 2 and 3
        ({"a": (1, 3), "b": (2, 3), "both": (3,)}, (1, 2, 3), ()),
        ({"core": (2, 3), "whole": (1, 2, 3)}, (2, 1), ("core would never be written", "Put it after whole")),
        ({"whole": (1, 2), "a": (1,), "b": (2, 3)}, (1, 3, 2), ("whole would never be written", "Leave it out")),
        ({"whole": (1, 2, 3), "core": (2, 3)}, (2, 3), ("whole writes 2", "Give it 1.")),
        ({"whole": (1, 2), "other": (3,)}, (3, 1), ("whole writes 3", "Give it 1 or 2.")),
        ({"a": (1, 3), "b": (2, 3)}, (1, 2), ("b shares 3 with a", "Add a label of 3 alone")),
    ],
)
def test_an_order_is_refused_if_it_does_not_keep_the_regions(regions, order, words):
    faults = faults_of_order(regions, order)
    kept = all(
        members(regions, written_value(regions, order, value)) == members(regions, value)
        for value in values_of(regions.values())
    )
    assert kept is not bool(faults)
    assert all(word in faults[0] for word in words)


@settings(derandomize=True)
@given(st.lists(st.sets(st.integers(1, 4), min_size=1), min_size=1, max_size=4, unique_by=frozenset), st.data())
def test_an_order_has_faults_exactly_if_a_round_trip_changes_regions(found, data):
    regions = {f"label {place}": tuple(sorted(region)) for place, region in enumerate(found)}
    known = values_of(regions.values())
    order = data.draw(st.lists(st.sampled_from(known), min_size=len(regions), max_size=len(regions)))
    kept = all(members(regions, written_value(regions, order, value)) == members(regions, value) for value in known)
    assert bool(faults_of_order(regions, order)) is not kept


def test_a_plan_has_the_parts_and_the_written_number_of_each_label(make_fingerprint):
    plan = planned(make_fingerprint, values=(4, 1, 2))
    assert plan.value_numbers == ((1, 2, 3), (2, 3), (3,))
    assert plan.written_numbers == (3, 1, 2)
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan
    apart = planned(make_fingerprint, regions=None, values=(4, 1, 2))
    assert apart.value_numbers == ((1,), (2,), (3,))
    assert apart.written_numbers == (1, 2, 3)


@pytest.mark.parametrize(
    "regions", [TUMOUR[:2], ((1, 2, 4), (2, 4), ()), ((0, 1, 2, 4), (2, 4), (4,)), ((1,), (2,), (3,))]
)
def test_a_plan_refuses_regions_that_do_not_fit_its_labels(make_fingerprint, regions):
    with pytest.raises(ValidationError, match="region"):
        planned(make_fingerprint, regions)


def test_the_publication_has_no_regions(make_fingerprint):
    with pytest.raises(UserError, match=r"--preset paper: .* cannot overlap"):
        planned(make_fingerprint, preset="paper")
