"""Overlapping labels: values, value numbers, and the checks of a plan."""

import pytest
from pydantic import ValidationError

from plans.budget import cpu_budget
from plans.errors import UserError
from plans.plan import LabelPlan, TextPlan
from plans.planner import make_plan
from plans.regions import numbered, values_of

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


def test_a_plan_has_the_value_numbers_of_each_label(make_fingerprint):
    plan = planned(make_fingerprint, values=(4, 1, 2))
    assert plan.parts == ((1, 2, 3), (2, 3), (3,))
    assert plan.written_numbers == (3, 1, 2)
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan
    apart = planned(make_fingerprint, regions=None, values=(4, 1, 2))
    assert apart.parts == ((1,), (2,), (3,))
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
