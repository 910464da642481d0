import json

import numpy as np
import pytest

from plans.errors import UserError
from textdiffseg.data import splits as splits_module
from textdiffseg.data.splits import (
    Splits,
    join_splits,
    make_splits,
    read_splits,
    read_stored_splits,
    refuse_parted_groups,
)
from textdiffseg.files import write_record

IDS = [f"case_{i:03d}" for i in range(23)]


def test_every_case_is_validated_once(monkeypatch):
    splits = make_splits(IDS[::-1])
    assert sorted(case for fold in splits.folds for case in fold.validation) == IDS
    for fold in splits.folds:
        assert set(fold.train) | set(fold.validation) == set(IDS)
        assert not set(fold.train) & set(fold.validation)
    assert splits == make_splits(IDS)
    monkeypatch.setattr(splits_module, "SEED", 1)
    assert splits != make_splits(IDS)


def test_splits_without_groups_equal_nnunets():
    model_selection = pytest.importorskip("sklearn.model_selection")
    expected = model_selection.KFold(5, shuffle=True, random_state=12345).split(IDS)
    for fold, (train, validation) in zip(make_splits(IDS).folds, expected, strict=True):
        assert fold.train == tuple(np.array(IDS)[train])
        assert fold.validation == tuple(np.array(IDS)[validation])


def test_groups_stay_together_and_folds_stay_balanced():
    groups = {case: f"patient_{i // 2}" for i, case in enumerate(IDS[:16])}
    splits = make_splits(IDS, groups)
    for fold in splits.folds:
        outside = {groups.get(case) for case in fold.train} - {None}
        assert not outside & {groups.get(case) for case in fold.validation}
    sizes = [len(fold.validation) for fold in splits.folds]
    assert sum(sizes) == len(IDS)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("cases", "folds"), [(5, 5), (4, 4), (2, 2), (1, 0)])
def test_few_cases_make_fewer_folds_and_a_note(cases, folds):
    splits = make_splits(IDS[:cases])
    assert len(splits.folds) == folds
    assert bool(splits.note) == (folds < 5)
    assert splits.split("all").train == splits.split("all").validation == tuple(IDS[:cases])


def test_few_groups_make_fewer_folds():
    splits = make_splits(IDS, dict.fromkeys(IDS[:12], "a") | dict.fromkeys(IDS[12:], "b"))
    assert len(splits.folds) == 2
    assert "2 groups" in splits.note


def test_a_fold_that_does_not_exist_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"Fold 3 does not exist: expected 0, 1, 2, all"):
        make_splits(IDS[:3]).split(3)
    with pytest.raises(UserError, match="-1"):
        make_splits(IDS).split("-1")
    assert make_splits(IDS).split("4") == make_splits(IDS).split(4)


def test_splits_are_read_as_written(tmp_path):
    splits = make_splits(IDS)
    write_record(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", IDS) == splits


def test_nnunets_file_is_read(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": IDS[2:], "val": IDS[:2]}, {"train": IDS[:2], "val": IDS[2:]}]))
    splits = read_splits(path, IDS)
    assert splits.split(0).validation == tuple(IDS[:2])
    assert splits.split("all").train == tuple(IDS)
    assert len(splits.folds) == 2


def test_every_fault_is_listed_with_its_fold(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": IDS[:5], "val": IDS[4:6]}, {"train": ["nobody"], "val": []}]))
    with pytest.raises(UserError) as error:
        read_splits(path, IDS)
    assert len(error.value.lines) == 3
    assert "fold 0: case_004 are in train and in validation" in error.value.lines[0]
    assert "fold 1: train: nobody" in error.value.lines[1]
    assert "fold 1: validation is empty" in error.value.lines[2]


def test_folds_that_split_a_group_are_refused(tmp_path):
    splits = make_splits(IDS)
    first, other = splits.split(0).validation[0], splits.split(0).train[0]
    refuse_parted_groups(splits, dict.fromkeys(IDS) | {first: "p"}, tmp_path)
    with pytest.raises(UserError, match="fold 0 trains on some cases of group p"):
        refuse_parted_groups(splits, dict.fromkeys(IDS) | {first: "p", other: "p"}, tmp_path)


def test_other_contents_and_other_cases_are_refused(tmp_path):
    path = tmp_path / "splits.json"
    with pytest.raises(UserError, match="does not exist"):
        read_splits(path, IDS)
    path.write_text('[{"train": ["a"], "valid": ["b"]}]')
    with pytest.raises(UserError, match=r"folds.0.validation"):
        read_splits(path, IDS)
    path.write_text("[")
    with pytest.raises(UserError, match=r"JSON: .*, or delete it and run tds_plan_and_preprocess"):
        read_splits(path, IDS)
    for nothing in ("[]", Splits(seed=1, cases=tuple(IDS), folds=()).model_dump_json()):
        path.write_text(nothing)
        with pytest.raises(UserError, match=r"splits\.json: it holds no folds\. Correct the file, or delete it"):
            read_splits(path, IDS)
        with pytest.raises(UserError, match=r"splits\.json: .*Correct the file, or delete it"):
            read_stored_splits(path)
    write_record(path, make_splits(IDS[:2]).model_copy(update={"folds": ()}))
    with pytest.raises(UserError, match="it holds no folds"):
        read_stored_splits(path)
    write_record(path, make_splits(IDS[:1]))
    assert read_stored_splits(path).folds == ()
    path.write_text(Splits.read(path).model_copy(update={"cases": ()}).model_dump_json())
    with pytest.raises(UserError, match=r"cases: expected more entries.*Correct the file"):
        read_stored_splits(path)
    write_record(path, make_splits(IDS))
    with pytest.raises(UserError, match=r"case_022 differ\. Correct the file, or delete it"):
        read_splits(path, IDS[:-1])
    path.write_text(Splits.read(path).model_dump_json().replace('"version":1', '"version":2'))
    with pytest.raises(UserError, match="version"):
        read_splits(path, IDS)


def test_joined_folds_equal_each_data_set_s_folds_under_the_new_ids():
    first, second = make_splits(IDS), make_splits(["a", "b", "c"])
    names = {case: f"1_{case}" for case in IDS}, {case: f"2_{case}" for case in "abc"}
    joined = join_splits([(first, names[0]), (second, names[1])])
    assert joined.cases == tuple(sorted([*names[0].values(), *names[1].values()]))
    for number, fold in enumerate(joined.folds):
        assert set(fold.train) | set(fold.validation) == set(joined.cases)
        assert not set(fold.train) & set(fold.validation)
        own = [names[0][case] for case in first.folds[number].validation]
        own += [names[1][case] for case in second.folds[number].validation] if number < 3 else []
        assert sorted(own) == list(fold.validation)
    assert len(joined.folds) == 5
    nnunets = Splits(seed=None, cases=("a", "b", "c"), folds=({"train": ("a",), "validation": ("b",)},))
    fold = join_splits([(first, names[0]), (nnunets, names[1])]).folds[0]
    assert not {"2_c"} & {*fold.train, *fold.validation}  # left out there, left out here


@pytest.mark.parametrize("content", [{"train": IDS[1:], "val": IDS[:1]}, {"0": {"train": IDS, "val": []}}, 5, None])
def test_a_file_that_is_not_a_list_of_folds_is_one_line(tmp_path, content):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'expected a list of folds: \[\{"train": \[...\], "val"') as caught:
        read_splits(path, IDS)
    assert len(caught.value.lines) == 1


def test_equal_folds_are_refused(tmp_path):
    path = tmp_path / "splits_final.json"
    folds = [{"train": IDS[2:], "val": IDS[:2]}, {"train": IDS[:2], "val": IDS[2:]}]
    path.write_text(json.dumps(folds))
    assert len(read_splits(path, IDS).folds) == 2
    same = {"train": IDS[:1:-1], "val": IDS[1::-1]}  # in another order
    path.write_text(json.dumps([*folds, same]))
    with pytest.raises(UserError, match=r"folds 0, 2 have the same cases.*Correct the file") as caught:
        read_splits(path, IDS)
    assert len(caught.value.lines) == 1
