from dataclasses import replace

import pytest

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.files import write_atomically, write_record
from textdiffseg.folds.agreement import check_words
from textdiffseg.folds.calibration import Calibration
from textdiffseg.folds.ensemble import chosen_folds, load_ensemble
from textdiffseg.folds.find import find_model
from textdiffseg.folds.sampling import Sampling, read_sampling
from textdiffseg.folds.weights import load_network


@pytest.fixture
def folder(root, plan):
    return root / "results" / plan.dataset / "default"


def test_the_only_model_is_found_by_root_name_or_folder(root, folder, plan):
    assert find_model(root) == folder
    assert find_model(root, "900") == folder
    assert find_model(root, "Tiny") == folder
    for given in (folder, folder.parent, root / "results"):
        assert find_model(root, folder=given) == folder
    assert chosen_folds(find_model(root, folder=folder / "fold_1"), None, "best") == (FoldFolder(folder / "fold_1"),)


def test_several_models_are_listed(root, folder, make_plan, bank, make_fold):
    make_fold(folder.parent / "unet" / "fold_0", make_plan("unet"), bank, 0)
    with pytest.raises(UserError, match=r"2 trained models(.|\n)*default(.|\n)*unet"):
        find_model(root)
    with pytest.raises(UserError, match="2 trained models"):
        find_model(root, "Tiny")
    assert find_model(root, folder=folder.parent / "unet").name == "unet"


def test_a_missing_model_is_an_error(tmp_path, root, folder):
    with pytest.raises(UserError, match=r"No trained model.*tds_train"):
        find_model(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not a folder"):
        find_model(root, folder=tmp_path / "elsewhere")
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="No trained model"):
        find_model(root)


def test_folds_are_named_or_all_used(folder):
    assert [fold.path.name for fold in chosen_folds(folder, None, "best")] == ["fold_0", "fold_1"]
    assert [fold.path.name for fold in chosen_folds(folder, ["1"], "best")] == ["fold_1"]
    with pytest.raises(UserError, match="no trained fold 4; it has 0, 1") as error:
        chosen_folds(folder, ["3", "0", "4"], "best")
    assert len(error.value.lines) == 2


def test_a_missing_checkpoint_names_the_other(folder):
    (folder / "fold_1" / "checkpoint_best.safetensors").unlink()
    with pytest.raises(UserError, match="--checkpoint latest"):
        load_ensemble(folder)
    assert load_ensemble(folder, ["0"]).folds == ("0",)
    assert load_ensemble(folder, checkpoint="latest").folds == ("0", "1")


def test_folds_of_different_plans_are_not_an_ensemble(folder, make_plan, bank, make_fold):
    make_fold(folder / "fold_2", make_plan(patch=(8, 16, 32)), bank, 2)
    with pytest.raises(UserError, match=r"fold_2.*in patch"):
        load_ensemble(folder)


def test_words_of_another_plan_name_their_file(folder, plan, bank):
    file = folder / "text_bank_paper.safetensors"
    check_words([file], [plan], [bank])
    other = plan.model_copy(update={"labels": plan.labels[:1]})
    with pytest.raises(UserError, match=r"text_bank_paper\.safetensors does not belong to the plan"):
        check_words([file], [other], [bank])


def test_folds_may_differ_in_their_training_settings(folder, make_plan, bank, make_fold):
    make_fold(folder / "fold_2", make_plan(batch=5, device="gpu"), bank, 2)
    assert len(load_ensemble(folder).networks) == 3


def test_the_hash_depends_on_the_weights(folder, make_plan, bank, make_fold):
    both, first = load_ensemble(folder), load_ensemble(folder, ["0"])
    assert both.hash == load_ensemble(folder).hash
    assert both.hash != first.hash
    make_fold(folder / "fold_2", make_plan(), bank, 0)
    assert load_ensemble(folder, ["2"]).hash == first.hash


def test_sampling_is_read_beside_the_weights(folder):
    assert read_sampling(FoldFolder(folder / "fold_0")) == Sampling()
    write_record(folder / "fold_0" / "sampling.json", Sampling(steps=4, mirroring=False))
    assert load_ensemble(folder, ["0"]).sampling.steps == 4


def test_calibrations_are_read_beside_the_weights(folder):
    (folder / "fold_1" / "calibration.json").write_text('{"version": 1, "fits": []}')
    assert load_ensemble(folder).calibrations == (Calibration(), Calibration())
    (folder / "fold_1" / "calibration.json").write_text('{"version": 9}')
    with pytest.raises(UserError, match=r"fold_1.calibration.json: version"):
        load_ensemble(folder)


def test_a_damaged_checkpoint_is_replaced_by_what_the_fold_still_holds(folder):
    fold = FoldFolder(folder / "fold_0")
    best, latest = fold.checkpoint("best"), fold.checkpoint("latest")
    write_atomically(latest, best.read_bytes())
    write_atomically(best, best.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"best.* is damaged .* delete it and run .*: it is then made of \S+latest"):
        load_network(fold)
    best.unlink()
    write_atomically(best, latest.read_bytes())
    write_atomically(latest, latest.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"latest.* is damaged .*; or delete it, and \S+best\S+ alone still predicts"):
        load_network(fold, "latest")
    best.unlink()
    with pytest.raises(UserError, match=r"is damaged \(.*\)\. Copy it again, or train the fold again with tds_train"):
        load_network(fold, "latest")


def test_a_damaged_checkpoint_is_an_error(folder):
    path = folder / "fold_0" / "checkpoint_best.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_ensemble(folder)


def test_folds_of_different_text_spaces_are_not_an_ensemble(folder, make_plan, bank, make_fold):
    """DESIGN 3: the space is frozen with the weights. A space computed again on another machine is the same one."""
    rounded = replace(bank.space, projection=bank.space.projection * (1 + 1e-6))
    make_fold(folder / "fold_2", make_plan(), replace(bank, space=rounded), 2)
    assert len(load_ensemble(folder).networks) == 3
    other = replace(bank.space, projection=bank.space.projection * 1.1)
    make_fold(folder / "fold_3", make_plan(), replace(bank, space=other), 2)
    with pytest.raises(UserError, match=r"fold_3.*another text space than .*fold_0: "):
        load_ensemble(folder)


def test_the_hash_depends_on_the_text_space(folder, bank):
    before = load_ensemble(folder).hash
    space = replace(bank.space, projection=bank.space.projection * (1 + 1e-6))
    for fold in ("fold_0", "fold_1"):
        replace(bank, space=space).save(FoldFolder(folder / fold).words)
    assert load_ensemble(folder).hash != before
