"""The comparison with raters: its data, its controls, and the whole command on a few phantoms."""

import contextlib
import itertools
import json
import sys

import numpy as np
import pytest
import torch

from textdiffseg import phantoms
from textdiffseg.data.store import open_case
from textdiffseg.evaluation.metrics import dice
from textdiffseg.folds import sampling
from textdiffseg.training.options import TrainingOptions


@pytest.fixture
def raters(benchmark):
    return benchmark("raters")


def test_the_outer_protocol_has_a_wider_border_and_no_lesion(raters):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[8:20, 8:20, 8:20] = 1 + phantoms.LABELS.index("liver")
    labels[10:14, 10:14, 10:14] = 1 + phantoms.LABELS.index("liver lesion")
    inner, outer = raters.protocols(labels, (1.0, 2.0, 4.0))
    assert np.count_nonzero(inner == 1) == 12**3
    assert not outer[10:14, 10:14, 10:14].any()
    planes = [np.flatnonzero((outer == 1).any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    assert [(axis.min(), axis.max()) for axis in planes] == [(6, 21), (7, 20), (8, 19)]


def test_the_protocols_of_a_phantom_differ_at_every_organ(raters):
    """A phantom's voxels are larger than 2 mm. Before, its borders were therefore the same in both protocols."""
    for index in range(4):
        anatomy = phantoms.draw_anatomy(0, index)
        _, labels = phantoms.paint(anatomy, np.random.default_rng(0))
        inner, outer = raters.protocols(labels, anatomy.spacing)
        for value in (1, 2):
            assert 0.7 < dice(inner == value, outer == value) < 0.95


def test_level_sets_are_nested_and_voxel_samples_follow_the_probabilities(raters):
    p = np.zeros((3, 1, 1, 2000), np.float32)
    p[1], p[0] = np.linspace(0, 1, 2000), 1 - np.linspace(0, 1, 2000)
    sets = [one[1].astype(bool) for one in raters.level_sets(p)]
    assert all((a | b == a).all() for a, b in itertools.pairwise(sets))
    assert np.mean([one[1] for one in raters.voxel_samples(p)]) == pytest.approx(0.5, abs=0.02)
    assert all((one.sum(0) == 1).all() for one in (*raters.level_sets(p), *raters.voxel_samples(p)))


def test_the_verdict_follows_the_bars(raters):
    rows = dict.fromkeys(raters.ROWS, 0.4) | {"default": 0.2, "mask_dice": 0.8, "best_of_4_dice": 0.9}
    found = {name: {"a": value, "b": value} for name, value in rows.items()}
    report = raters.summary_of([found], [0])
    assert report["of_unet"] == 0.5
    assert set(report["verdict"].values()) == {"holds"}
    worse = found | {"default": {"a": 0.4, "b": 0.5}, "best_of_4_dice": {"a": 0.82, "b": 0.82}}
    assert set(raters.summary_of([worse], [0])["verdict"].values()) == {"fails"}


def test_the_likelihood_falls_where_the_logits_agree_and_samples_share_their_coefficients(benchmark, model, bank):
    ssn = benchmark("ssn")
    plan = model.plan.model_copy(update={"diffusion": None, "preset": "unet"})
    torch.manual_seed(0)
    network = ssn.stochastic(plan)
    segmenter = ssn.Segmenter.of(network)
    objective, queries = ssn._objective_of(network), bank.all_labels().expand(2)
    image, targets = torch.randn(2, 1, 16, 16, 16), torch.zeros(2, 16, 16, 16, dtype=torch.long)
    first = objective.losses(image, targets, queries, None).total
    first.backward()
    classifier = ssn.classifier_of(network)
    assert classifier.factor.weight.grad.abs().sum() > 0
    assert classifier.log_variance.weight.grad.abs().sum() > 0
    with torch.no_grad():
        classifier.classifier.background[-1] += 5  # background is right here
    assert objective.losses(image, targets, queries, None).total < first
    with torch.no_grad():
        classifier.log_variance.bias.fill_(-40)
        samples = []
        for number in (0, 0, 1):
            classifier.drawn = number
            samples.append(next(segmenter.logits(image, queries)))
    assert torch.equal(samples[0], samples[1])
    assert not torch.allclose(samples[0], samples[2])


def test_the_likelihood_is_float32_within_autocast(benchmark, model, bank):
    """In bfloat16 the matrix of a trained network's distribution was not positive definite."""
    ssn = benchmark("ssn")
    torch.manual_seed(0)
    network = ssn.stochastic(model.plan.model_copy(update={"diffusion": None, "preset": "unet"}))
    with torch.no_grad():
        weight = ssn.classifier_of(network).factor.weight
        weight[:] = 30 * (weight[:1] + weight / 20)  # all columns of P are nearly equal
    image, targets = torch.randn(1, 1, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        losses = ssn._objective_of(network).losses(image, targets, bank.all_labels().expand(1), None)
    assert torch.isfinite(losses.total)


def test_the_command_prints_all_rows_and_resumes(benchmark, raters, monkeypatch, capsys, shrink_plan, tmp_path):
    def here(work, *arguments):
        with contextlib.redirect_stdout(sys.stderr):
            return work(*arguments)

    def small(data, root, preset, device, plain=raters.prepare):
        folder = plain(data, root, preset, device)
        for path in folder.glob("plan*.json"):
            shrink_plan(path)
        return folder

    for module in (raters, sampling):
        monkeypatch.setattr(module, "ALTERNATIVE_SAMPLES", 4)
    monkeypatch.setattr(raters, "in_own_process", here)
    monkeypatch.setattr(raters, "prepare", small)
    monkeypatch.setattr(
        benchmark("accuracy"), "TrainingOptions", lambda max_minutes, epochs, **more: TrainingOptions(epochs=2, **more)
    )
    arguments = ["--phantoms", "5", "--minutes", "1", "--cases", "1", "--root", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["raters", *arguments])
    assert raters.main() == 0
    first = json.loads(capsys.readouterr().out)
    assert set(raters.ROWS) <= set(first["means"])
    assert all(0 <= first["means"][row] < 2 for row in raters.ROWS)
    assert set(first["verdict"]) == set(raters.BARS)
    stored = tmp_path / "preprocessed" / raters.NAME
    assert open_case(stored, "phantom_000").record.references == 2
    picture = tmp_path / "alternatives.png"
    monkeypatch.setattr(sys, "argv", ["rater_picture", "--root", str(tmp_path), "--case", "0", "-o", str(picture)])
    assert benchmark("rater_picture").main() == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["raters", *arguments])
    capsys.readouterr()
    monkeypatch.setattr(raters, "in_own_process", lambda *_: pytest.fail("the figures are kept"))
    assert raters.main() == 0
    assert json.loads(capsys.readouterr().out) == first
