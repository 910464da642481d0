"""Checks that a fold, its checkpoints and its cases belong together."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.splits import make_splits
from textdiffseg.files import write_record
from textdiffseg.folds.cases import FoldCases, refuse_other_cases, write_cases
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.position import TrainingPosition

IDS = [f"case_{i:03d}" for i in range(23)]
DATASET = "Dataset001_A"


def cases(number=0, dataset=DATASET):
    split = make_splits(IDS).split(number)
    return FoldCases.of(dataset, split.train, split.validation)


def mark(path, **fields):
    """Write a checkpoint's position as training does."""
    position = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=1, iteration=1, **fields)
    tensors = load_file(path) if path.is_file() else {"a": torch.zeros(1)}
    save_file(tensors, path, metadata={"progress": position.model_dump_json()})


@pytest.fixture
def folder(root, plan):
    """A model of two folds, each with its list of cases and their hash in both checkpoints."""
    folder = root / "results" / plan.dataset / "default"
    for number in (0, 1):
        fold = FoldFolder(folder / f"fold_{number}")
        write_cases(fold, cases(number))
        for which in ("best", "latest"):
            mark(fold.checkpoint(which), cases=cases(number).hash)
    return folder


def test_a_fold_started_with_other_cases_is_refused(tmp_path):
    fold = FoldFolder(tmp_path)
    refuse_other_cases(fold, cases())  # an older fold without a list
    write_record(tmp_path / "cases.json", make_splits(IDS).split(0))  # without a version, as in the first format
    refuse_other_cases(fold, cases())
    write_cases(fold, cases())
    refuse_other_cases(fold, cases())
    assert json.loads((tmp_path / "cases.json").read_text())["hash"] == cases().hash
    with pytest.raises(UserError, match="started with other cases"):
        refuse_other_cases(fold, cases(1))
    with pytest.raises(UserError, match="is a fold of Dataset001_A, not of Dataset002_B"):
        refuse_other_cases(fold, cases(dataset="Dataset002_B"))


@pytest.mark.parametrize("content", ["{}", '{"train": ["../../x"], "validation": ["a"]}'])
def test_a_list_of_cases_that_cannot_be_read_has_a_way_out(folder, content):
    fold = FoldFolder(folder / "fold_0")
    fold.cases.write_text(content)
    with pytest.raises(UserError, match=r"cases\.json: train.* Copy the file again, or delete it"):
        load_ensemble(folder)
    fold.cases.unlink()
    load_ensemble(folder)


def test_the_hash_is_of_data_set_and_cases_not_of_their_order():
    assert FoldCases.of("A", ["y", "x"], ["z"]).hash == FoldCases.of("A", ["x", "y"], ["z"]).hash
    others = {
        FoldCases.of(*one).hash for one in (("A", "xy", "z"), ("B", "xy", "z"), ("A", "x", "yz"), ("A", "xyz", ""))
    }
    assert len(others) == 4


@pytest.mark.parametrize("which", ["best", "latest"])
def test_another_folds_checkpoint_is_not_trained_further(folder, which):
    fold = FoldFolder(folder / "fold_0")
    refuse_other_cases(fold, cases())
    shutil.copy(FoldFolder(folder / "fold_1").checkpoint(which), fold.checkpoint(which))
    with pytest.raises(UserError, match=rf"fold_0.checkpoint_{which}\S+ was trained on other cases.*--restart"):
        refuse_other_cases(fold, cases())
    fold.cases.unlink()
    with pytest.raises(UserError, match="was trained on other cases"):
        refuse_other_cases(fold, cases())


def test_another_folds_checkpoint_is_not_used_for_prediction(folder):
    load_ensemble(folder)
    shutil.copy(folder / "fold_1" / "checkpoint_latest.safetensors", folder / "fold_0")
    for checkpoint in ("best", "latest"):  # the latest one notes whether the fold is finished
        with pytest.raises(UserError, match=r"fold_0.checkpoint_latest\S+ was trained on other cases.*--folds"):
            load_ensemble(folder, checkpoint=checkpoint)
    (folder / "fold_0" / "cases.json").unlink()
    with pytest.raises(UserError, match="was trained on other cases"):
        load_ensemble(folder, ["0"])


def test_a_copy_of_a_fold_is_refused(folder):
    shutil.copytree(folder / "fold_1", folder / "fold_2")
    with pytest.raises(UserError, match=r"fold_2 is a copy of \S*fold_1: .*--folds"):
        load_ensemble(folder)
    assert load_ensemble(folder, ["0", "2"]).folds == ("0", "2")
    shutil.copytree(folder / "fold_2", folder / "fold_3")
    for path in folder.glob("fold_[23]/*"):  # copied without the files that note the cases
        if path.suffix == ".safetensors" and "checkpoint" in path.name:
            save_file(load_file(path), path)
        path.name != "cases.json" or path.unlink()
    with pytest.raises(UserError, match=r"fold_3 is a copy of \S*fold_2"):
        load_ensemble(folder, ["2", "3"])


def test_a_fold_trained_on_the_same_cases_is_a_copy_even_with_other_weights(folder, plan, bank, make_fold):
    make_fold(folder / "fold_2", plan, bank, 7)
    mark(folder / "fold_2" / "checkpoint_best.safetensors", cases=cases(1).hash)
    with pytest.raises(UserError, match="fold_2 is a copy of"):
        load_ensemble(folder)
