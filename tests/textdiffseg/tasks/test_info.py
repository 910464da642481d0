"""The description of a trained model, and a packaged model, through the public functions and the commands."""

import json

import pytest
from safetensors.torch import load_file, save_file

import textdiffseg as tds
from plans.layout import FoldFolder
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import summarise
from textdiffseg.files import hash_files, write_record
from textdiffseg.folds.cases import FoldCases, write_cases
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.state import note_validated
from textdiffseg.tensors import write_tensor_file
from textdiffseg_cli import export_model, import_model, info


@pytest.fixture
def validated(root, plan):
    """A root whose fold 0 is validated: Dice .6 and .9 of `back`, none of `Front_Part`."""
    fold = FoldFolder(root / "results" / plan.dataset / "default" / "fold_0")
    none = LabelScores(dice=None, nsd=None, hd95=None, volume_ml=0, reference_ml=0, note="absent from both")
    cases = [
        CaseScores(
            case=case,
            labels={
                "back": LabelScores(dice=dice, nsd=None, hd95=None, volume_ml=1, reference_ml=1),
                "Front_Part": none,
            },
        )
        for case, dice in (("a", 0.6), ("b", 0.9))
    ]
    write_record(fold.summary, summarise(cases))
    note_validated(fold)
    return root


def test_a_model_is_described_from_its_files(validated, plan):
    found = tds.describe(dataset="900", root=validated)
    assert (found.dataset, found.preset, found.channels) == (plan.dataset, "default", ("MRI",))
    front, back = found.labels
    assert (front.name, front.value, front.phrasings) == ("Front_Part", 7, ("front part", "anterior end"))
    assert (front.dice, back.dice) == (None, pytest.approx(0.75))
    first, second = found.folds
    assert (first.name, first.validated, first.cases, first.dice) == ("0", True, 2, pytest.approx(0.75))
    assert (second.name, second.validated, second.cases, second.dice) == ("1", False, 0, None)
    assert found.samples


def test_a_fold_that_was_stopped_in_its_first_epoch_does_not_hide_the_others(validated, plan):
    fold = FoldFolder.of(validated, plan.dataset, "default", "1")
    fold.checkpoint("best").rename(fold.checkpoint("latest"))
    assert [one.name for one in tds.describe(dataset="900", root=validated).folds] == ["0"]


@pytest.mark.parametrize("damage", ["unread", "a path as an id", "of another fold"])
def test_scores_that_are_not_those_of_the_fold_are_not_shown(validated, plan, damage):
    fold = FoldFolder.of(validated, plan.dataset, "default", "0")
    write_cases(fold, FoldCases.of(plan.dataset, ["c"], ["a", "b"]))
    assert tds.describe(dataset="900", root=validated).folds[0].validated
    if damage == "of another fold":
        write_cases(fold, FoldCases.of(plan.dataset, ["a", "b"], ["c"]))
    else:
        text = fold.summary.read_text()
        fold.summary.write_text("{}" if damage == "unread" else text.replace('"case": "a"', '"case": "../a"'))
        assert fold.summary.read_text() != text
    assert not tds.describe(dataset="900", root=validated).folds[0].validated
    assert tds.status("900", root=validated).presets[0].folds[0].state == "trained"


def test_a_plan_that_was_edited_is_not_described(validated, plan):
    fold = FoldFolder.of(validated, plan.dataset, "default", "0")
    position = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=1, iteration=1, plan=hash_files([fold.plan]))
    path = fold.checkpoint("best")
    save_file(load_file(path), path, metadata={"progress": position.model_dump_json()})
    assert tds.describe(dataset="900", root=validated).dataset == plan.dataset
    fold.plan.write_text(fold.plan.read_text() + " ")
    with pytest.raises(tds.UserError, match="is not the plan that this fold was trained with"):
        tds.describe(dataset="900", root=validated)


def test_a_damaged_file_of_the_validation_has_a_way_out(validated, plan):
    fold = FoldFolder.of(validated, plan.dataset, "default", "0")
    for path in (fold.postprocessing, fold.sampling):
        path.write_text("{" if path == fold.sampling else "{}")
        with pytest.raises(tds.UserError, match=rf"{path.name}.* validate the fold again: tds_train --val\.$"):
            tds.describe(dataset="900", root=validated)
        path.unlink()


def test_a_model_without_a_trained_sampler_has_no_samples(validated, plan, bank, make_model):
    fold = FoldFolder.of(validated, plan.dataset, "default", "0")
    network = make_model(plan)
    network.spread.zero_()
    weights = {f"ema.{name}": value for name, value in network.state_dict().items()}
    write_tensor_file(fold.checkpoint("best"), weights, {})
    assert not tds.describe(dataset="900", root=validated).samples


def test_the_command_prints_a_table_or_json(validated, capsys):
    assert info.main(["900", "--root", str(validated)]) == 0
    printed = capsys.readouterr().out
    assert "anterior end" in printed
    assert "0.750" in printed
    assert "not validated" in printed
    assert info.main(["900", "--root", str(validated), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert [label["value"] for label in fields["labels"]] == [7, 3]


def test_no_model_is_one_line(tmp_path, capsys):
    assert info.main(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_goes_to_another_root_and_is_found_there(validated, tmp_path, capsys):
    file, other = tmp_path / "model.zip", tmp_path / "other"
    assert export_model.main(["900", "-o", str(file), "--root", str(validated), "--folds", "0"]) == 0
    assert "no ids of cases" in capsys.readouterr().out
    assert import_model.main([str(file), "--root", str(other)]) == 0
    assert capsys.readouterr().out.startswith("Written: ")
    found = tds.describe(dataset="900", root=other)
    assert [fold.name for fold in found.folds] == ["0"]
    assert found.folds[0].validated
    assert import_model.main([str(file), "--root", str(other)]) == 0, "it is there, unchanged"
    assert "holds this model already. Nothing was written.\nNext: " in capsys.readouterr().out
    (fold,) = (folder for folder in other.glob("results/*/*/fold_*"))
    (fold / "plan.json").write_text("{}")
    assert import_model.main([str(file), "--root", str(other)]) == 2, "another one is there"
    assert "exists already" in capsys.readouterr().err
