"""The lists of plan fields name fields that exist."""

import pytest

from plans import fields
from plans.plan import Plan


@pytest.mark.parametrize("name", [name for name in vars(fields) if name.isupper()])
def test_each_list_names_fields_of_the_plan(name):
    assert {*getattr(fields, name)} <= Plan.model_fields.keys()
