"""The measures of benchmarks/words.py, on a model of known behaviour."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plans.errors import UserError
from plans.names import normalise
from plans.raw.prompts import Prompts
from textdiffseg import phantoms


@pytest.fixture
def words(benchmark):
    return benchmark("words")


@pytest.mark.parametrize("dataset", ["phantoms", "hippocampus"])
def test_each_label_has_at_least_eight_phrasings_and_none_occurs_twice(words, dataset):
    wordings = words.WORDINGS[dataset]
    trained = Prompts(scan="MRI", labels={name: one.trained for name, one in wordings.items()})
    assert min(map(len, trained.labels.values())) >= 8
    assert len({len(one.held_out) for one in wordings.values()}) == 1
    phrases = [normalise(phrase) for one in wordings.values() for phrase in (*one.trained, *one.held_out)]
    assert len(phrases) == len(set(phrases))


def test_labels_find_their_wording_by_name_or_by_its_beginning(words):
    found = words.matched(phantoms.LABELS, "phantoms")
    assert [one.trained[0] for one in found.values()][::5] == ["liver", "liver lesion"]
    assert "hippocampal head" in words.matched(["Anterior", "Posterior"], "hippocampus")["Anterior"].trained
    with pytest.raises(UserError, match="no phrasings for kidney, Lung: expected the labels anterior"):
        words.matched(["kidney", "Anterior", "Lung"], "hippocampus")


def test_unseen_phrasings_keep_the_label_numbers(words, bank, encoder):
    queries = words.in_words(bank, ["the very tip", "back"], encoder)
    assert queries.labels.tolist() == [[1, 2]]
    assert torch.equal(queries.vectors[0, 1], bank.all_labels().vectors[0, 1])
    assert torch.equal(queries.vectors[0, 0], bank.encode("the very tip", encoder).pooled)


def test_a_prompt_also_queries_the_other_labels_and_a_label_by_itself_does_not(words, bank):
    assert words.alone(bank, 2, words.PROMPTED)[0].labels.tolist() == [[2, 1]]
    assert words.alone(bank, 2, words.BY_ITSELF)[0].labels.tolist() == [[2]]


def scans_and_model(words, monkeypatch, answer):
    """One scan along one axis with front at 0-9 and back at 10-19. The model predicts `answer(queries)`."""
    truth = np.repeat([1, 2, 0], 10).reshape(1, 1, 30)
    scans = [
        SimpleNamespace(truth=truth, transform=SimpleNamespace(geometry=SimpleNamespace(spacing=(2.0, 5.0, 10.0))))
    ]
    monkeypatch.setattr(words, "predict", lambda predictor, scan, queries, answers: answer(queries))
    return scans


def test_the_share_on_the_named_gland(words, monkeypatch, bank):
    def answer(queries):
        number = int(queries.labels[0, 0])
        labels = np.zeros((1, 1, 30), int)
        labels[..., 4:12] = number  # 6 voxels on front, 2 on back
        return labels

    scans = scans_and_model(words, monkeypatch, answer)
    assert words.share_on_named_gland(None, bank, scans, 1, 2, words.PROMPTED) == 0.75
    assert words.share_on_named_gland(None, bank, scans, 2, 1, words.BY_ITSELF) == 0.25
    scans = scans_and_model(words, monkeypatch, lambda queries: np.zeros((1, 1, 30), int))
    assert words.share_on_named_gland(None, bank, scans, 1, 2, words.PROMPTED) is None


def test_volume_is_in_millilitres(words, monkeypatch):
    (scan,) = scans_and_model(words, monkeypatch, None)
    assert words.volume(scan.truth, 1, scan) == 1.0


def test_a_phantom_and_its_truth_lie_on_one_grid(words, model):
    anatomy, seed = phantoms.draw_anatomy(0, 10_000), (0, 10_000)
    scan = words.phantom_scan(model.plan.model_copy(update={"spacing": (3.0, 3.0, 3.0)}), anatomy, seed)
    assert scan.truth.shape == scan.transform.geometry.shape
    assert scan.image.shape[1:] == scan.transform.shape
    np.testing.assert_array_equal(words.phantom_scan(model.plan, anatomy, seed).truth, scan.truth)
