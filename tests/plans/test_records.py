"""Files of the project are written whole or not at all, and say which one could not be."""

import pytest

from plans.errors import UserError
from plans.geometry import resampled_shape
from plans.prompts import Prompts


def test_a_name_given_twice_is_refused_where_json_would_keep_the_last():
    with pytest.raises(UserError, match=r"prompts\.json: 'liver' stands there twice"):
        Prompts.parse_json('{"scan": "CT", "labels": {"liver": ["a"], "liver": ["b"]}}', "prompts.json")


def test_shapes_are_rounded_as_nnunet_does():
    assert resampled_shape((200, 512, 512), (2.5, 0.8, 0.8), (1.0, 1.0, 1.0)) == (500, 410, 410)
    assert resampled_shape((2, 3, 3), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 3, 3)
