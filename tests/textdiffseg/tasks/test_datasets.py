"""The user's files of words and folds are never skipped without a word."""

import pytest

from plans.errors import UserError
from plans.layout import PreprocessedFolder, RawFolder
from plans.raw.dataset import read_dataset
from textdiffseg.tasks.datasets import splits_of, words_of


def test_a_link_that_leads_nowhere_is_refused_in_place_of_words_folds_and_texts(tiny_raw, tmp_path):
    raw, dataset = RawFolder(tiny_raw), read_dataset(tiny_raw)
    for path in (raw.prompts, raw.nnunet_splits, raw.texts):
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"prompts\.json is a link that leads nowhere"):
        words_of(dataset, tmp_path)
    with pytest.raises(UserError, match=r"splits_final\.json is a link that leads nowhere"):
        splits_of(dataset, [dataset], PreprocessedFolder(tmp_path / "preprocessed" / dataset.name), print)
    with pytest.raises(UserError, match=r"texts is not a folder, or a link that leads nowhere"):
        read_dataset(tiny_raw)


def test_the_folds_of_nnunet_1_are_not_left_out_without_a_word(tiny_raw, tmp_path):
    dataset, folder, lines = read_dataset(tiny_raw), PreprocessedFolder(tmp_path / "preprocessed"), []
    drawn = splits_of(dataset, [dataset], folder, lines.append)
    assert not lines
    (tiny_raw / "splits_final.pkl").write_bytes(b"a pickle")
    assert splits_of(dataset, [dataset], folder, lines.append) == drawn
    (line,) = lines
    assert line.startswith(f"{tiny_raw / 'splits_final.pkl'} is not read, as a pickle can run programs.")
    assert 'splits_final.json beside it: a list of {"train": [...], "val": [...]}' in line
