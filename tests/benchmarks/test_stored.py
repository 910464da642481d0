"""Stored cases are scored as in validation, with queries for all labels or for single ones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plans.errors import UserError
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.inference.windows import Prediction
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.readout import readout_of


def test_labels_that_overlap_are_scored_as_unions(benchmark, model, bank):
    stored = benchmark("stored")
    nested = model.plan.model_copy(update={"regions": ((3, 7), (3,))})  # front holds back, 1 is the value 3, 2 is 7
    truth = np.repeat([0, 1, 2, 0], 4).reshape(1, 1, 16).repeat(4, 0).repeat(4, 1)
    image, transform = preprocess_image(
        Volume(np.ones((1, 4, 4, 16), np.float32), Geometry((4, 4, 16), np.eye(4))), nested
    )
    scan = stored.Scan("x", torch.from_numpy(image), transform, truth)
    masks = (truth > 0, np.roll(truth == 1, 1, 2))  # the part lies one of its four voxels too far
    background, *found = (transform.orientation.apply(mask) for mask in (truth == 0, *masks))

    def predict_image(image, queries, answers=None):
        slots = [found[number - 1] for number in queries.labels[0].tolist()]
        return Prediction(torch.from_numpy(np.stack([background, *slots]).astype(np.float32)))

    predictor = SimpleNamespace(plan=nested, readout=readout_of(nested), predict_image=predict_image)
    labels = stored.predict(predictor, scan, bank.all_labels())
    assert labels[0, 0].tolist() == [0] * 4 + [2] + [1] * 4 + [2] * 3 + [0] * 4
    assert stored.dice(predictor, [scan], bank.all_labels()) == {"front": 1.0, "back": pytest.approx(0.75)}
    assert stored.dice(predictor, [scan], bank.queries([[(2, 0)]])) == {"back": pytest.approx(0.75)}
    partly = replace(scan, annotated=(1,))
    assert stored.dice(predictor, [partly], bank.all_labels()) == {"front": 1.0}


def test_the_model_reads_the_text_of_a_stored_case(benchmark, model, bank):
    token_counts, image = [], torch.zeros(1, 4, 4, 4)

    def predict_image(image, queries):
        token_counts.append(queries.tokens.shape[1])
        return Prediction(torch.ones(3, 4, 4, 4) / 3)

    _, transform = preprocess_image(
        Volume(np.ones((1, 4, 4, 4), np.float32), Geometry((4, 4, 4), np.eye(4))), model.plan
    )
    readout = readout_of(model.plan)
    predictor = SimpleNamespace(plan=model.plan, readout=readout, predict_image=predict_image)
    for text in (None, torch.ones(5, 16)):
        scan = benchmark("stored").Scan("x", image, transform, np.zeros((4, 4, 4)), text)
        benchmark("stored").predict(predictor, scan, bank.all_labels())
    assert token_counts[1] == token_counts[0] + 5


def test_fold_all_leaves_nothing_to_score(benchmark, tmp_path):
    with pytest.raises(UserError, match="leaves none to score"):
        benchmark("stored").held_out(tmp_path, "all")


def test_a_missing_gpu_is_refused(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        benchmark("stored").fold_parser("A benchmark.").parse_args(["--device", "cuda"])
    assert "torch finds no GPU here" in capsys.readouterr().err
