"""A change of numbers is always a decision: short trainings are compared with what they gave before (`golden.py`)."""

import importlib.util
import json

import pytest
import torch

TOLERANCE = 1e-3  # relative; other processors add up in another order. `make golden` records anew


@pytest.fixture(scope="module")
def golden(repository):
    """The module that makes the runs."""
    spec = importlib.util.spec_from_file_location("golden", repository / "tests" / "golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record(golden):
    """What was recorded; other versions of torch may add up differently."""
    found = json.loads(golden.PATH.read_text())
    version = torch.__version__.partition("+")[0]
    if version != found["torch"]:
        pytest.skip(f"the golden runs were recorded with torch {found['torch']}, this is {version}")
    return found["runs"]


@pytest.fixture(scope="module")
def root(golden, tmp_path_factory):
    """Raw data sets of phantoms."""
    folder = tmp_path_factory.mktemp("golden")
    golden.prepare(folder)
    return folder


@pytest.mark.parametrize("name", ["default", "unet", "paper", "peer-unet", "overlapping"])
def test_a_short_training_and_prediction_give_the_numbers_that_were_recorded(golden, record, root, name):
    found = json.loads(json.dumps(golden.run(name, root)))
    assert set(found) == set(record[name])
    for key, expected in record[name].items():
        _compare(found[key], expected, f"{name}: {key}")


def _compare(found, expected, where):
    """Numbers within the tolerance, of their own size or, for lists, of the largest in the list."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _compare(found[key], expected[key], f"{where}: {key}")
        return
    size = max(map(abs, expected)) if isinstance(expected, list) else abs(expected)
    assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE * size), where
