"""The folder of a data set is found by its number, name, folder or path, in each tree."""

from pathlib import Path

import pytest

from plans.errors import UserError
from plans.raw.folders import find_dataset, find_datasets, find_folder, joined_ids


def write(folder: Path) -> Path:
    """The folder of a data set, with an empty dataset.json."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").touch()
    return folder


def test_find_dataset_by_id_name_folder_and_path(tmp_path, monkeypatch):
    hippocampus = write(tmp_path / "raw/Dataset004_Hippocampus")
    write(tmp_path / "raw/Dataset014_Heart")
    own = write(tmp_path / "elsewhere/own")
    for name in ("4", "004", "Hippocampus", "hippocampus", "Dataset004_Hippocampus", "Dataset004", str(hippocampus)):
        assert find_dataset(name, tmp_path) == hippocampus
    assert find_dataset(str(own), tmp_path) == own
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_dataset("own", tmp_path).resolve() == own
    with pytest.raises(UserError, match=r"'5'.*Dataset004_Hippocampus, Dataset014_Heart.*--root"):
        find_dataset("5", tmp_path)


def test_find_folder_in_the_other_trees(tmp_path):
    raw = write(tmp_path / "raw/Dataset004_Hippocampus")
    with pytest.raises(UserError, match=r"which holds nothing\. Run tds_plan_and_preprocess first"):
        find_folder("4", tmp_path, "preprocessed")
    done = tmp_path / "preprocessed/Dataset004_Hippocampus"
    done.mkdir(parents=True)
    for name in ("4", "Hippocampus", str(raw), str(done)):
        assert find_folder(name, tmp_path, "preprocessed") == done


def test_several_data_sets_are_found_together(tmp_path):
    first = write(tmp_path / "raw/Dataset004_Hippocampus")
    second = write(tmp_path / "raw/Dataset101_Sarcoma")
    own, plus = write(tmp_path / "elsewhere/a+b"), write(tmp_path / "raw/a+b")
    assert find_datasets("101+Hippocampus", tmp_path) == [second, first]
    assert find_datasets(joined_ids("Dataset004+101_Hippocampus+Sarcoma"), tmp_path) == [first, second]
    assert find_datasets("Dataset004+101_Hippocampus+Sarcoma", tmp_path) == [first, second], "as messages name it"
    assert joined_ids("Dataset004_Hippocampus") == "Dataset004_Hippocampus"
    assert (find_datasets(str(own), tmp_path), find_datasets("a+b", tmp_path)) == ([own], [plus])
    with pytest.raises(UserError) as caught:
        find_datasets("4+5+6", tmp_path)
    assert len(caught.value.lines) == 2
    made = tmp_path / "preprocessed/Dataset004+101_Hippocampus+Sarcoma"
    made.mkdir(parents=True)
    for name in ("4+101", "101+004", "Sarcoma+hippocampus", "Sarcoma+4", f"{first}+{second}", made.name):
        assert find_folder(name, tmp_path, "preprocessed") == made
    for name in ("4", "4+5", "4+4", "Sarcoma", "4+101+Sarcoma"):
        with pytest.raises(UserError):
            find_folder(name, tmp_path, "preprocessed")


def test_an_ambiguous_name_is_refused(tmp_path):
    write(tmp_path / "raw/Dataset001_Liver")
    write(tmp_path / "raw/Dataset002_Liver")
    with pytest.raises(UserError, match=r"fits Dataset001_Liver, Dataset002_Liver.*full name"):
        find_dataset("liver", tmp_path)
