import json
import sys

import pytest

from textdiffseg.files import write_record
from textdiffseg.folds.postprocessing import Postprocessing, PostprocessingTrial, PostprocessingTrials


def test_the_gain_is_that_of_cases_that_chose_nothing(benchmark, monkeypatch, capsys, tmp_path):
    """A step that helps every second case alone: each half chooses what does not help the other."""
    module = benchmark("postprocessing")
    dice = {
        Postprocessing(): [0.5] * 8,
        Postprocessing(components="largest"): [0.7, 0.4] * 4,
        Postprocessing(fill_holes=True): [0.6] * 8,
    }
    rows = tuple(PostprocessingTrial(step=step, dice=tuple(values)) for step, values in dice.items())
    write_record(tmp_path / "fold_0" / "postprocessing.json", PostprocessingTrials(labels={"liver": rows}))
    monkeypatch.setattr(sys, "argv", ["postprocessing", str(tmp_path / "fold_0")])
    assert module.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == {"liver": "fill holes"}
    assert found["halves"] == [{"liver": "fill holes"}, {"liver": "keep the largest component, fill holes"}]
    assert found["gains"]["liver"]["mean"] == pytest.approx(0.1 - 0.05), "the second half loses .1 by the first's step"
    monkeypatch.setattr(sys, "argv", ["postprocessing", str(tmp_path)])
    assert module.main() == 2
    assert "has no postprocessing.json of its weights" in capsys.readouterr().err
