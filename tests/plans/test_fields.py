"""The lists of plan fields name fields and derived values that exist."""

import pytest

from plans import fields
from plans.plan import Plan


@pytest.mark.parametrize("name", [name for name in vars(fields) if name.isupper()])
def test_each_list_names_fields_of_the_plan(name):
    missing = [field for field in getattr(fields, name) if field not in Plan.model_fields and not hasattr(Plan, field)]
    assert missing == []
