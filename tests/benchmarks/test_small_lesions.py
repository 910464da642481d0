"""The benchmark of small lesions: its phantoms, its counts, and the whole command with tiny networks."""

import contextlib
import json
import sys

import numpy as np
import pytest

from plans.layout import PreprocessedFolder
from plans.plan import Plan
from textdiffseg import phantoms
from textdiffseg.training.options import TrainingOptions


@pytest.fixture
def small_lesions(benchmark):
    return benchmark("small_lesions")


def test_each_phantom_has_one_lesion_of_a_ten_thousandth_of_the_scan_in_its_liver(small_lesions):
    shares = []
    for index in range(12):
        anatomy = small_lesions.draw_small_lesion(0, index)
        _, labels = phantoms.paint(anatomy, np.random.default_rng(0))
        without = phantoms.without(anatomy, small_lesions.LESION)
        lesion = small_lesions.is_lesion(labels)
        assert {*phantoms.paint(without, np.random.default_rng(0))[1][lesion]} == {1}, "liver"
        shares.append(lesion.mean())
    assert min(shares) > 0
    assert np.mean(shares) == pytest.approx(1e-4, rel=0.3)
    assert small_lesions.draw_small_lesion(0, 3).organs == small_lesions.draw_small_lesion(0, 3).organs


def test_a_touched_lesion_is_found_and_other_components_are_false_positives(small_lesions):
    reference = np.zeros((8, 8, 8), bool)
    reference[2:4, 2:4, 2:4] = True
    predicted = np.zeros_like(reference)
    assert small_lesions.score_lesion(predicted, reference) == small_lesions.LesionScore(False, 0, 0.0)
    predicted[6, 6, 6] = predicted[0, 7, 0] = True
    assert small_lesions.score_lesion(predicted, reference) == small_lesions.LesionScore(False, 2, 0.0)
    predicted[3, 3, 3:5] = True
    assert small_lesions.score_lesion(predicted, reference) == small_lesions.LesionScore(True, 2, pytest.approx(2 / 12))
    predicted[2, 2, 2] = True
    found = small_lesions.score_lesion(predicted, reference)
    assert (found.found, found.false_positives) == (True, 2), "two components touch the lesion"
    scores = [found, small_lesions.LesionScore(False, 0, 0.0)]
    figures = small_lesions.summary(scores)
    assert (figures["found"], figures["scans"], figures["false_positives_per_scan"]) == (1, 2, 1.0)


def test_the_command_counts_lesions_for_each_preset_and_resumes(
    small_lesions, benchmark, shrink_plan, monkeypatch, capsys, tmp_path
):
    def here(work, *arguments):
        with contextlib.redirect_stdout(sys.stderr):
            return work(*arguments)

    def prepare_small(data, root, preset, device):
        folder = benchmark("stored").prepare(data, root, preset, device)
        path = PreprocessedFolder(folder).plan(preset)
        if Plan.read(path).stages[-1].width > 8:
            shrink_plan(path)
        return folder

    monkeypatch.setattr(small_lesions, "TRAINING", 5)
    monkeypatch.setattr(small_lesions, "prepare", prepare_small)
    monkeypatch.setattr(small_lesions, "in_own_process", here)
    options = lambda max_minutes, epochs=None, **more: TrainingOptions(epochs=1, **more)  # noqa: E731
    monkeypatch.setattr(benchmark("accuracy"), "TrainingOptions", options)
    arguments = ["--root", str(tmp_path), "--minutes", "1", "--cases", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["small_lesions", *arguments])
    reports = []
    for _ in range(2):
        assert small_lesions.main() == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1], "trained folds are used again"
    assert set(reports[0]["presets"]) == {"default", "unet"}
    for seeds in reports[0]["presets"].values():
        assert (seeds["0"]["scans"], seeds["0"]["iterations"]) == (2, 3)
        assert 0 <= seeds["0"]["found"] <= 2
    assert [claim["verdict"] in {"holds", "fails", "cannot be told"} for claim in reports[0]["claims"]] == [True, True]
