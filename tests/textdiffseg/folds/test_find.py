"""Which model is meant: a low resolution serves the full resolution beside it."""

import shutil

import pytest

from plans.errors import UserError
from textdiffseg.folds.find import find_model


@pytest.fixture
def results(root, make_plan, make_fold, bank):
    low = make_plan(resolution="low")
    make_fold(root / "results" / low.dataset / "default-low" / "fold_0", low, bank, 7)
    return root / "results" / low.dataset


def test_a_low_resolution_beside_its_full_one_is_no_choice_of_its_own(root, results):
    expected = results / "default"
    assert find_model(root) == find_model(root, "Dataset900_Tiny") == find_model(root, preset="default") == expected
    assert find_model(root, folder=results / "default-low") == results / "default-low"
    shutil.copytree(results / "default", results / "second")
    with pytest.raises(UserError, match="There are 2 trained models"):
        find_model(root)


def test_what_a_killed_import_has_left_is_no_model(root, results):
    (results / "default-low").rename(results / ".default.0123abcd-1-0123456789abcdef.tmp")
    assert find_model(root) == results / "default"


def test_low_resolution_alone_is_a_model(root, results):
    shutil.rmtree(results / "default")
    assert find_model(root, "Dataset900_Tiny") == results / "default-low"
