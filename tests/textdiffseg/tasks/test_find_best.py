"""Models are compared on their common validation cases, and prediction uses the chosen one."""

import json

import pytest

import textdiffseg as tds
from plans.layout import FoldFolder, best_models
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.state import note_validated
from textdiffseg.tasks import find_best as module
from textdiffseg_cli.find_best import main

CASES = tuple("pqrstuvw")
FOLDS = {"0": CASES[:4], "1": CASES[4:]}


def scores(case, dice):
    label = LabelScores(dice=dice, nsd=dice, hd95=1.0, volume_ml=1, reference_ml=1)
    return CaseScores(case=case, labels={"Front_Part": label, "back": label})


@pytest.fixture
def trained(tmp_path, make_plan, make_fold, bank):
    """A function that writes a trained model of two folds. `dice`: by case; None: as it is validated."""

    def write(preset, dice, seed, folds=FOLDS, **changes):
        plan = make_plan(preset, **changes)
        for name, cases in folds.items():
            fold = FoldFolder.of(tmp_path, plan.dataset, preset, name, plan.resolution)
            make_fold(fold.path, plan, bank, seed + int(name))
            write_record(fold.summary, summarise([scores(case, dice[case]) for case in cases]))
            note_validated(fold)
        return plan

    return write


def even(dice, **others):
    return dict.fromkeys(CASES, dice) | others


def replace_scoring(monkeypatch, function):
    """Score pairs by `function`, without stored cases."""
    monkeypatch.setattr(module, "score_averaged", function)
    monkeypatch.setattr(module, "check_cases", lambda *_: None)


def test_the_best_single_model_is_chosen_and_predicts(tmp_path, trained, make_scan, leave_temporary):
    plan = trained("default", even(0.7), 0)
    trained("unet", even(0.8, p=0.6), 5)
    leftover = leave_temporary(tmp_path / "results" / plan.dataset / "best.json")
    choice = tds.find_best(900, root=tmp_path, pairs=False)
    assert not leftover.exists(), "of a killed run"
    assert choice.record.models == ("unet",)
    assert choice.record.cases == 8
    best, other = choice.record.candidates
    assert (best.models, best.dice, best.difference) == (("unet",), pytest.approx(0.775), None)
    assert (other.models, other.dice, other.difference) == (("default",), pytest.approx(0.7), pytest.approx(-0.075))
    low, high = other.interval_95
    assert -0.1001 < low < high < 0
    make_scan(tmp_path / "a.nii.gz")
    tds.predict(tmp_path / "a.nii.gz", tmp_path / "out", dataset="900", root=tmp_path)
    tds.predict(tmp_path / "a.nii.gz", tmp_path / "own", dataset="900", root=tmp_path, preset="default")
    folder = tmp_path / "results" / plan.dataset
    hashes = [json.loads((tmp_path / of / "a.json").read_text())["request"]["model"] for of in ("out", "own")]
    assert hashes == [tds.load(folder / preset, device="cpu").ensemble.hash for preset in ("unet", "default")]
    assert tds.describe(dataset="900", root=tmp_path).preset == "unet"


def test_models_whose_cases_have_no_ids_are_not_compared(tmp_path, trained):
    """Both number their cases from the lowest Dice on. Other numbers are other cases."""
    numbered = {name: [f"fold_{name}_case_{place}" for place in range(4)] for name in FOLDS}
    dice = dict.fromkeys([case for cases in numbered.values() for case in cases], 0.9)
    trained("default", even(0.7), 0)
    trained("unet", dice, 5, numbered)
    lines = []
    choice = tds.find_best(900, root=tmp_path, pairs=False, report=lines.append)
    assert choice.record.models == ("default",)
    assert lines == ["Left out: unet has no ids of the cases of fold 0, 1. Export it with --keep-identifiers."]


def test_only_common_cases_are_compared(tmp_path, trained):
    trained("default", even(0.7), 0)
    trained("unet", even(0.6), 5, folds={"1": FOLDS["1"]})
    choice = tds.find_best(900, root=tmp_path, pairs=False)
    assert choice.record.cases == 4
    trained("peer-unet", even(0.9), 9, folds={"0": FOLDS["0"]}, diffusion=None, peer="unet")
    lines = []
    choice = tds.find_best(900, root=tmp_path, pairs=False, report=lines.append)
    assert choice.record.models == ("default",)
    assert lines == ["Left out: peer-unet has no validation case in common with default, unet."]


def test_a_model_with_a_damaged_fold_is_not_compared(tmp_path, trained):
    """It cannot predict with all its folds."""
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.9), 5)
    damaged = FoldFolder.of(tmp_path, plan.dataset, "unet", 1).plan
    damaged.write_text("{")
    lines = []
    assert tds.find_best(900, root=tmp_path, pairs=False, report=lines.append).record.models == ("default",)
    assert [line.startswith(f"Left out: {damaged} is not valid JSON") for line in lines] == [True]


def test_scores_of_other_weights_are_not_compared(tmp_path, trained, make_fold, bank):
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.9), 5)
    make_fold(tmp_path / "new", plan, bank, 77)
    fold = FoldFolder.of(tmp_path, plan.dataset, "unet", 0)
    fold.checkpoint("best").write_bytes((tmp_path / "new" / "checkpoint_best.safetensors").read_bytes())
    lines = []
    choice = tds.find_best(900, root=tmp_path, pairs=False, report=lines.append)
    assert choice.record.cases == 4
    assert lines == ["unet: fold 0 is not validated, so its cases are not compared."]


def test_an_uncertain_gain_does_not_choose_a_pair(tmp_path, trained, monkeypatch):
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.75), 5)
    (tmp_path / "preprocessed" / plan.dataset / "cases").mkdir(parents=True)
    gain = {}
    replace_scoring(monkeypatch, lambda folds, place, cases, *_: tuple(scores(c, 0.75 + gain[c]) for c in cases))
    gain |= dict(zip(CASES, (0.1, -0.05, 0.1, -0.08, 0.02, 0.05, -0.1, 0.05), strict=True))
    choice = tds.find_best(900, root=tmp_path)
    assert choice.record.models == ("unet",)
    assert choice.record.candidates[0].models == ("default", "unet"), "it is listed, and its mean is higher"
    assert tds.find_best(900, root=tmp_path).record == choice.record, "the stored scores are used"
    for path in (tmp_path / "results" / plan.dataset / "averaged").iterdir():
        path.unlink()
    gain |= dict.fromkeys(CASES, 0.02)
    choice = tds.find_best(900, root=tmp_path)
    assert choice.record.models == ("default", "unet")
    assert [folder.name for folder in choice.folders] == ["default", "unet"]


def test_scores_of_other_weights_are_predicted_again(tmp_path, trained, make_fold, bank, monkeypatch):
    plan = trained("default", even(0.7), 0)
    trained("unet", even(0.75), 5)
    (tmp_path / "preprocessed" / plan.dataset / "cases").mkdir(parents=True)
    calls = []

    def averaged(folds, place, cases, *_):
        calls.append((tuple(fold.path.parent.name + fold.name for fold in folds), tuple(cases)))
        return tuple(scores(case, 0.8) for case in cases)

    replace_scoring(monkeypatch, averaged)
    tds.find_best(900, root=tmp_path)
    expected = [((f"default{name}", f"unet{name}"), FOLDS[name]) for name in FOLDS]
    assert calls == expected, "each case with the folds that were not trained on it"
    tds.find_best(900, root=tmp_path)
    assert len(calls) == 2
    fold = FoldFolder.of(tmp_path, plan.dataset, "unet", 1)
    make_fold(tmp_path / "new", plan, bank, 77)
    fold.checkpoint("best").write_bytes((tmp_path / "new" / "checkpoint_best.safetensors").read_bytes())
    note_validated(fold)
    tds.find_best(900, root=tmp_path)
    assert calls[2:] == expected


def test_pairs_of_low_resolution_are_scored_on_its_own_cases(tmp_path, trained, monkeypatch):
    for preset, dice in (("default", 0.7), ("unet", 0.75)):
        plan = trained(preset, even(dice), 0, resolution="low")
    places, checked = [], []
    monkeypatch.setattr(module, "score_averaged", lambda *of: places.append(of[1]) or [scores(c, 0.8) for c in of[2]])
    monkeypatch.setattr(module, "check_cases", lambda folder, cases, plan: checked.append((folder, plan.preset)))
    tds.find_best(900, root=tmp_path)
    low = tmp_path / "preprocessed" / plan.dataset / "default-low"
    assert places == [low, low]
    assert checked == [(low, "default"), (low, "unet")] * 2


def test_models_with_other_numbers_of_folds_are_not_averaged(tmp_path, trained):
    trained("default", even(0.7), 0)
    trained("unet", even(0.75), 5, folds={"0": CASES[:7]})
    lines = []
    tds.find_best(900, root=tmp_path, report=lines.append)
    assert lines == ["default and unet are not averaged: They have other folds: 0, 1 and 0."]


def test_models_with_other_grids_are_compared_but_not_averaged(tmp_path, trained):
    trained("default", even(0.7), 0)
    trained("unet", even(0.6), 5, patch=(8, 16, 24))
    lines = []
    choice = tds.find_best(900, root=tmp_path, report=lines.append)
    assert [one.models for one in choice.record.candidates] == [("default",), ("unet",)]
    assert lines == ["default and unet are not averaged: Their plans differ in patch."]
    with pytest.raises(tds.UserError, match="cannot be averaged: their plans differ in patch"):
        tds.load([tmp_path / "results" / "Dataset900_Tiny" / preset for preset in ("default", "unet")], device="cpu")


def test_samples_of_an_averaged_model_come_from_the_preset_that_has_them(tmp_path, trained, make_scan):
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.6), 5)
    folders = [tmp_path / "results" / plan.dataset / preset for preset in ("default", "unet")]
    model = tds.load(folders, device="cpu")
    assert len(model.ensemble.networks) == 4
    ready = model.prepare(tds.SegmentOptions(uncertainty=True, alternatives=2))
    assert len(ready.mask_predictor.predictor.networks) == 4
    assert [len(one.predictor.networks) for one in (ready.uncertainty_predictor, ready.alternatives)] == [2, 2]
    make_scan(tmp_path / "a.nii.gz")
    assert model.segment(tmp_path / "a.nii.gz", uncertainty=True).uncertainty().max() > 0


@pytest.mark.parametrize("damage", ["missing", "unread"])
def test_a_choice_that_no_longer_holds_is_explained(tmp_path, trained, damage):
    plan = trained("default", even(0.7), 0)
    trained("unet", even(0.8), 5)
    trained("peer-unet", even(0.6), 9, diffusion=None, peer="unet")
    tds.find_best(900, root=tmp_path, pairs=False)
    results = tmp_path / "results" / plan.dataset
    if damage == "missing":
        (results / "unet").rename(tmp_path / "elsewhere")
        expected = "names unet, which is not there. Run tds_find_best again, or choose a model with -m."
    else:
        best_models(results).write_text("{}")
        expected = r"models: missing\. Run tds_find_best again, or delete the file"
    with pytest.raises(tds.UserError, match=expected):
        tds.load(results, device="cpu")
    assert tds.load(results / "default", device="cpu").plan.preset == "default"


def test_a_choice_that_is_older_than_a_validation_is_named(tmp_path, trained, make_scan):
    plan = trained("default", even(0.7), 0)
    trained("unet", even(0.8), 5)
    tds.find_best(900, root=tmp_path, pairs=False)
    results = tmp_path / "results" / plan.dataset
    make_scan(tmp_path / "a.nii.gz")

    def lines(**options):
        found = []
        options = {"dataset": "900", "root": tmp_path, "device": "cpu", "report": found.append} | options
        tds.predict(tmp_path / "a.nii.gz", tmp_path / "out", overwrite=True, **options)
        return [line for line in found if "out of date" in line]

    assert lines() == []
    assert tds.status(900, root=tmp_path).notes == ()
    fold = FoldFolder.of(tmp_path, plan.dataset, "default", 0)
    fold.checkpoint("best").write_bytes(
        FoldFolder.of(tmp_path, plan.dataset, "default", 1).checkpoint("best").read_bytes()
    )
    note_validated(fold)
    expected = f"The choice in {results / 'best.json'} is out of date: default/fold_0 changed. Run tds_find_best again."
    assert lines() == [f"Note: {expected}"]
    assert lines(preset="unet") == lines(model=results / "unet") == []
    found = tds.status(900, root=tmp_path)
    assert found.notes == (expected,)
    assert found.next.startswith("tds_find_best")
    tds.find_best(900, root=tmp_path, pairs=False)
    assert lines() == []
    (results / "unet" / "fold_1").rename(tmp_path / "away")
    assert "unet/fold_1 changed" in lines()[0]


def test_models_with_other_labels_are_not_compared(tmp_path, trained):
    trained("default", even(0.7), 0)
    labels = [{"name": "Front_Part", "value": 7}, {"name": "back", "value": 4}]
    trained("unet", even(0.9), 5, labels=labels)
    lines = []
    choice = tds.find_best(900, root=tmp_path, report=lines.append)
    assert choice.record.models == ("default",)
    assert lines == ["Left out: unet has other labels than default."]


def test_the_progress_of_a_pair_runs_over_all_its_folds(tmp_path, trained, monkeypatch):
    trained("default", even(0.7), 0)
    trained("unet", even(0.75), 5)

    def averaged(folds, place, cases, device, progress):
        for done in (0, 2, 4):
            progress(done, 4)
        return tuple(scores(case, 0.8) for case in cases)

    replace_scoring(monkeypatch, averaged)
    seen = []
    tds.find_best(900, root=tmp_path, progress=lambda event: seen.append((event.done, event.total)))
    assert seen == [(done, 8) for done in (0, 2, 4, 4, 6, 8)]
    (tmp_path / "results" / "Dataset900_Tiny" / "averaged" / "default+unet.json").unlink()
    with pytest.raises(tds.Cancelled, match="finished folds are not repeated"):
        tds.find_best(900, root=tmp_path, cancel=lambda: True)


def test_few_cases_do_not_choose_a_pair(tmp_path, trained, monkeypatch):
    folds = {"0": CASES[:5]}
    trained("default", even(0.7), 0, folds=folds)
    plan = trained("unet", even(0.75), 5, folds=folds)
    (tmp_path / "preprocessed" / plan.dataset / "cases").mkdir(parents=True)
    replace_scoring(monkeypatch, lambda *of: tuple(scores(case, 0.8) for case in of[2]))
    choice = tds.find_best(900, root=tmp_path)
    assert choice.record.candidates[0].models == ("default", "unet")
    assert choice.record.models == ("unet",)


def test_a_pair_that_cannot_be_predicted_is_a_line(tmp_path, trained, monkeypatch):
    """The stored cases are gone: the single models are compared all the same."""
    trained("default", even(0.7), 0)
    trained("unet", even(0.8), 5)
    lines = []
    assert tds.find_best(900, root=tmp_path, report=lines.append).record.models == ("unet",)
    assert len(lines) == 1
    assert lines[0].startswith("default and unet are not averaged: ")


def test_stored_scores_follow_the_references(tmp_path, trained, monkeypatch):
    """After a correction of the masks, the folds are validated again with the same weights."""
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.75), 5)
    (tmp_path / "preprocessed" / plan.dataset / "cases").mkdir(parents=True)
    calls = []
    replace_scoring(monkeypatch, lambda *of: calls.append(1) or tuple(scores(c, 0.8) for c in of[2]))
    tds.find_best(900, root=tmp_path)
    assert len(calls) == 2
    fold = FoldFolder.of(tmp_path, plan.dataset, "unet", 0)
    write_record(fold.summary, summarise([scores(case, 0.5) for case in FOLDS["0"]]))
    tds.find_best(900, root=tmp_path)
    assert len(calls) == 4


def test_a_new_model_is_compared_before_the_choice_is_used(tmp_path, trained):
    trained("default", even(0.7), 0)
    trained("unet", even(0.8), 5)
    tds.find_best(900, root=tmp_path, pairs=False)
    assert tds.status("900", root=tmp_path).next.startswith("tds_predict -i SCANS -o SEGMENTATIONS -d Dataset900_Tiny")
    trained("peer-unet", even(0.9), 9, diffusion=None, peer="unet")
    assert tds.status("900", root=tmp_path).next.startswith("tds_find_best Dataset900_Tiny")


def test_several_folders_are_distinct_and_those_with_samples_come_first(tmp_path, trained):
    trained("default", even(0.7), 0)
    plan = trained("unet", even(0.6), 5)
    default, unet = (tmp_path / "results" / plan.dataset / preset for preset in ("default", "unet"))
    model = tds.load([unet, default], device="cpu")
    assert model.ensemble.folds == ("default/0", "default/1", "unet/0", "unet/1")
    assert model.plan.preset == "default"
    for folders in ([default, default], [default, default / "fold_0"]):
        with pytest.raises(tds.UserError, match=r"a fold of it is given twice\. Give each model once"):
            tds.load(folders, device="cpu")
    with pytest.raises(tds.UserError, match="give the folder of at least one"):
        tds.load([], device="cpu")


def test_without_a_validated_model_the_way_to_one_is_shown(tmp_path, trained, capsys):
    plan = trained("default", even(0.7), 0)
    for name in FOLDS:
        FoldFolder.of(tmp_path, plan.dataset, "default", name).summary.unlink()
    assert main(["900", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "has no validated model to compare. Train one first: tds_run Dataset900_Tiny --root" in error


def test_the_command_prints_the_table_and_the_next_command(tmp_path, trained, capsys):
    trained("default", even(0.7), 0)
    trained("unet", even(0.8, p=0.6), 5)
    assert main(["900", "--root", str(tmp_path), "--no-pairs"]) == 0
    out = capsys.readouterr().out
    assert "8 validation cases that all models have" in out
    assert f"Best: unet. Written to {tmp_path / 'results' / 'Dataset900_Tiny' / 'best.json'}." in out
    assert "Next: tds_predict -i SCANS -o SEGMENTATIONS -d Dataset900_Tiny" in out
    assert main(["900", "--root", str(tmp_path), "--no-pairs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["record"]["models"] == ["unet"]
    assert Summary.read(FoldFolder.of(tmp_path, "Dataset900_Tiny", "unet", 0).summary).mean.dice
