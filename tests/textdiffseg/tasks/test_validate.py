"""What validation says about mirroring. Its parts have tests of their own."""

from types import SimpleNamespace

import pytest

from plans.layout import FoldFolder
from textdiffseg.data.splits import Split
from textdiffseg.folds.sampling import Sampling
from textdiffseg.progress import never, silent
from textdiffseg.tasks import validate as module


@pytest.mark.parametrize(("axes", "notes"), [((0, 2), 1), ((), 0)])
def test_mirroring_that_was_not_tried_is_noted_only_where_it_could_be(
    axes, notes, tmp_path, make_fold, make_plan, bank, monkeypatch
):
    make_fold(tmp_path / "fold_0", make_plan("unet").model_copy(update={"mirror_axes": axes}), bank, 0)
    monkeypatch.setattr(module, "choose_sampling", lambda *_: Sampling())
    monkeypatch.setattr(module, "trained_fold", lambda *_: SimpleNamespace(findings=()))
    for name in ("validate_fold", "calibrate_uncertainty", "cases_with_raters", "note_contents", "note_validated"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    lines = []
    split = Split(train=("a",), validation=("b",))
    module.validate(tmp_path, split, FoldFolder(tmp_path / "fold_0"), "cpu", True, lines.append, silent, never)
    assert [line.startswith("Mirroring was not tried") for line in lines] == [True] * notes
