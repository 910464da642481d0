"""The ways and verdicts of benchmarks/sentences.py."""

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def sentences(benchmark):
    return benchmark("sentences")


@pytest.fixture
def nodules(benchmark):
    return benchmark("nodule_phantoms")


def test_texts_are_exchanged_between_cases_whose_nodules_lie_along_one_axis(sentences, nodules):
    phantoms = [nodules.draw_phantom(0, index) for index in range(12)]
    given = sentences.shuffled(phantoms)
    assert set(given) == {phantom.case for phantom in phantoms}
    for axis, sides in nodules.SIDES.items():
        group = [phantom for phantom in phantoms if phantom.axis == axis]
        assert sorted(given[phantom.case] for phantom in group) == sorted(phantom.text for phantom in group)
        assert all(any(side in given[phantom.case] for side in sides) for phantom in group)


def test_each_way_is_compared_with_its_control(sentences):
    def dice_of(value):
        return {0: {"x": {"metastasis": value}, "y": {"metastasis": value}}}

    values = {sentences.OWN: 0.9, sentences.OTHER: 0.4, sentences.NONE: 0.58, sentences.WITHOUT: 0.6}
    scores = {way: dice_of(value) for way, value in values.items()}
    args = SimpleNamespace(fold="0", minutes=1.0, training=60, sampler_share=None, device="cpu", alternatives=False)
    claims = sentences.report(scores, {}, [], args)["claims"]
    assert [claim["pooled"]["mean"] for claim in claims] == pytest.approx([0.3, 0.2, -0.02, 0.5])
    assert [claim["verdict"] for claim in claims] == ["holds", "holds", "fails", "holds"]


def test_alternatives_must_be_right_where_single_masks_are_not(sentences):
    def verdict(*shares):
        drawn = [{"single_mask": single, "best_alternative": best} for single, best in shares]
        return sentences.judge_alternatives(drawn)["verdict"]

    assert verdict((0.5, 0.95), (0.6, 0.9)) == "holds"
    assert verdict((0.7, 0.95)) == "fails"
    assert verdict((0.5, 0.85)) == "fails"
    assert sentences.judge_alternatives([{"skipped": "no samples"}])["verdict"] == "cannot be told"


def test_the_best_of_the_alternatives_counts(sentences, nodules, monkeypatch):
    class Model:
        plan = SimpleNamespace(diffusion=object())
        load = classmethod(lambda cls, *arguments, **options: cls())

    def segment(model, phantoms, texts, options):
        """The mask is empty. One of four alternatives is right in every other phantom."""
        assert (texts, options.alternatives) == ({}, 4)
        (phantom,) = phantoms
        wrong = SimpleNamespace(labels=np.zeros_like(phantom.labels))
        right = SimpleNamespace(labels=phantom.labels) if int(phantom.case[-1]) % 2 else wrong
        return [SimpleNamespace(labels=wrong.labels, alternatives=(wrong, right))]

    monkeypatch.setattr(sentences, "Model", Model)
    monkeypatch.setattr(sentences, "segment", segment)
    args = SimpleNamespace(fold="0", device="cpu", cases=4)
    assert sentences.alternatives(sentences.Path("run/fold_0"), args) == {"single_mask": 0.0, "best_alternative": 0.5}
