"""The benchmark of the evaluation reports costs, ratios and differences on small masks."""

import json
import sys

import pytest


@pytest.mark.parametrize("peers", [["surface_distance", "monai"], []])
def test_each_program_has_its_cost_and_the_scores_agree(benchmark, monkeypatch, capsys, peers):
    evaluation = benchmark("evaluation")
    monkeypatch.setattr(evaluation, "in_own_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(sys, "argv", ["evaluation", "--shape", "26", "48", "48", "--peers", *peers])
    assert evaluation.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["figures"]) == ["body", "three labels"]
    assert found["left_out"] == []
    assert found["passed"]
    for programs in found["figures"].values():
        assert list(programs) == ["textdiffseg", *peers]
        assert sum(programs[name]["cpu_seconds"] for name in programs) > 0, "each is rounded to .01 s"
        if peers:
            assert programs["surface_distance"]["hd95_difference_mm"] <= 1e-9
            assert programs["monai"]["nsd_difference"] <= 1e-5
            assert programs["monai"]["hd95_difference_mm"] > 0
