"""The benchmarks' commands on tiny data for a few iterations. Each reports all of its figures."""

import argparse
import contextlib
import json
import sys
from statistics import mean

import pytest

from textdiffseg.training.options import TrainingOptions
from textdiffseg_cli import plan_and_preprocess


@pytest.fixture(scope="module")
def root(write_raw, shrink_plan, tmp_path_factory):
    """A root planned for both presets, with small networks and an epoch of three iterations."""
    root = tmp_path_factory.mktemp("benchmarks")
    write_raw(root, cases=10)
    for preset in ("default", "unet"):
        at = ["901", "--root", str(root), "--preset", preset, "--workers", "0"]
        assert plan_and_preprocess.main(at) == 0
    for path in (root / "preprocessed" / "Dataset901_Tiny").glob("plan*.json"):
        shrink_plan(path)
    return root


@pytest.fixture
def call(benchmark, monkeypatch, capsys):
    """A function that runs a benchmark in this process, training two epochs, and returns the JSON that it prints."""

    def here(work, *arguments):
        with contextlib.redirect_stdout(sys.stderr):
            return work(*arguments)

    def two_epochs(max_minutes=None, epochs=None, **options):
        return TrainingOptions(epochs=2, **options)

    def run(name, *arguments):
        module = benchmark(name)
        monkeypatch.setattr(module, "in_own_process", here, raising=False)
        for trainer in (module, benchmark("accuracy")):  # several benchmarks train with `accuracy.train`
            monkeypatch.setattr(trainer, "TrainingOptions", two_epochs, raising=False)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        assert module.main() == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_accuracy_and_parts_report_all_figures(call, root, benchmark, tmp_path, capsys):
    capsys.readouterr()
    raw = root / "raw" / "Dataset901_Tiny"
    found = call("accuracy", "--data", raw, "--root", root, "--minutes", 1, "--seeds", 0, "--device", "cpu")
    assert set(found["presets"]) == {"default", "unet"}
    for preset, seeds in found["presets"].items():
        figures = seeds["0"]
        sampler = {"default": 1, "unet": 3}[preset]  # iterations of the second of two epochs
        assert (figures["iterations"], figures["cases"]) == (3 + sampler, 2)
        expected = ("dice", "nsd", "labels", "iterations_per_second", "training_minutes", "peak_host_gb", "sampling")
        assert not [name for name in expected if figures[name] is None]
    default = found["presets"]["default"]["0"]
    table = [(row["steps"], row["samples"]) for row in default["steps"]]
    assert table == [(steps, samples) for samples in (1, 8) for steps in (1, 2, 4, 8)]
    assert default["most_steps_below_best"] >= 0
    assert set(default["true_latent_dice"]) == {"bright cube", "dark cube"}
    gap = found["default_minus_unet"]["pooled"]
    assert gap["interval_95"][0] <= gap["mean"] <= gap["interval_95"][1]
    folders = {preset: root / "results" / raw.name / f"{preset}_seed0" / "fold_0" for preset in ("default", "unet")}
    benchmark("paper").draw(argparse.Namespace(data=raw), folders, tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 10_000
    rows = call("parts", folders["default"], "--device", "cpu")["rows"]
    assert list(rows) == [
        "as it is",
        "fusion zeroed",
        "skips zeroed",
        "classifier's vectors swapped",
        "each label alone",
        "each label alone, fusion's tokens swapped",
        "passthrough",
        "exchangeability",
    ]
    without = ["as it is", "each label alone", "passthrough", "exchangeability"]
    assert [name for name, row in rows.items() if "loss" not in row] == without
    assert 0 <= rows["passthrough"]["dice"] <= 1
    assert (rows["exchangeability"]["steps"], rows["exchangeability"]["samples"]) == (8, 8)


def test_paper_reports_the_networks_of_table_i(call, root):
    folder, presets = root / "preprocessed" / "Dataset901_Tiny", ("peer-unetrpp", "peer-diffunet")
    plan = json.loads((folder / "plan_unet.json").read_text())
    for preset in presets:
        changes = {"preset": preset, "peer": preset.removeprefix("peer-")}
        (folder / f"plan_{preset}.json").write_text(json.dumps(plan | changes))
    raw = ("--data", root / "raw" / "Dataset901_Tiny", "--root", root, "--device", "cpu")
    found = call("paper", *raw, "--minutes", 1, "--cases", 1, "--presets", *presets)["presets"]
    assert [figures["table_i"] for figures in found.values()] == ["UNETR++", "Diff-UNet"]
    assert all(figures["iterations"] == 6 and figures["dice"] is not None for figures in found.values())


def test_shifts_report_a_verdict_and_resume(call, root, tmp_path):
    raw = root / "raw" / "Dataset901_Tiny"
    arguments = ("--data", raw, "--root", root, "--minutes", 1, "--cases", 2, "--device", "cpu")
    found = call("shifts", *arguments)["datasets"][raw.name]
    forms = ["unet", "unet, skip dropout", "unet, noise augmentation", "default"]
    assert list(found["dice"]) == forms
    assert all(len(of_form) == 1 + 8 + 1 for of_form in found["dice"].values())
    assert found["verdict"] in ("holds", "fails", "cannot be told")
    scored = {path: path.stat().st_mtime_ns for path in root.glob("shifts/*/*/fold_0/checkpoint_best.safetensors")}
    assert len(scored) == 4
    assert call("shifts", *arguments)["datasets"][raw.name] == found
    assert all(path.stat().st_mtime_ns == time for path, time in scored.items()), "nothing is trained again"


def test_variants_report_dice_and_calibration_beside_the_control(call, root):
    raw, name = root / "raw" / "Dataset901_Tiny", "cross-entropy alone in the last tenth"
    options = ("--iterations", 4, "--device", "cpu", "--degraded")
    found = call("variants", "--data", raw, "--root", root, *options, "--changes", name)
    assert list(found["variants"]) == ["control", name]
    for figures in found["variants"].values():
        (seed,) = figures["seeds"]
        assert set(seed) == {"iterations", "dice", "labels", "ece", "degraded", "degradations"}
        assert seed["degraded"] == pytest.approx(mean(seed["degradations"].values()))
        assert (seed["iterations"], figures["cost_an_iteration"]) == (4, 1.0)
        assert 0 < seed["ece"] < 1
        gaps = ("minus_control", "degraded_minus_control", "ece_minus_control")
        assert [figures[gap]["cases"] for gap in gaps] == [2, 2, 2]
    changed, control = (found["variants"][one]["seeds"][0]["ece"] for one in (name, "control"))
    assert found["variants"][name]["ece_minus_control"]["mean"] == pytest.approx(changed - control)
