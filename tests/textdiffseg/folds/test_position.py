"""The position of a training, as a checkpoint notes it."""

import json
from pathlib import Path

import pytest

from textdiffseg.folds.position import parse_position


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_position_is_read_and_has_no_denoiser_of_its_own(version):
    old = {"version": version, "seed": 3, "epochs": 2, "iterations_per_epoch": 4, "iteration": 8}
    found = parse_position(Path("checkpoint"), {"progress": json.dumps(old)})
    assert (found.seed, found.denoiser_share, found.denoiser_epoch, found.finished) == (3, 0, None, True)
    assert found.schedule == (8, 8)
