"""The comparison's arithmetic, and that the whole script loads where optional libraries are missing."""

import argparse
import subprocess
import sys

import numpy as np
import pytest

from plans.errors import UserError
from plans.network_plan import PaperPlan
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.position import TrainingPosition


def summary(**dice: float | None) -> Summary:
    """One label, one case a keyword."""
    other = {"nsd": None, "hd95": None, "volume_ml": 1, "reference_ml": 1}
    scores = {case: LabelScores(dice=value, **other) for case, value in dice.items()}
    return summarise([CaseScores(case=case, labels={"a": score}) for case, score in scores.items()])


def test_a_constant_difference_has_an_interval_of_no_width(benchmark):
    found = benchmark("bootstrap").paired(np.full(7, 0.25))
    assert found == {"mean": 0.25, "interval_95": [0.25, 0.25], "cases": 7}


def test_the_interval_narrows_with_the_root_of_the_cases(benchmark):
    paired = benchmark("bootstrap").paired
    gaps = np.random.default_rng(1).normal(0.01, 0.1, 1600)

    def width(cases: int) -> float:
        low, high = paired(gaps[:cases])["interval_95"]
        return high - low

    assert width(100) == pytest.approx(4 * width(1600), rel=0.25)
    low, high = paired(gaps)["interval_95"]
    assert low < 0.01 < high


def test_cases_are_paired_and_those_without_dice_left_out(benchmark):
    gaps = benchmark("accuracy").case_gaps(summary(x=0.9, y=0.5, z=None, only=1.0), summary(y=0.25, x=0.4, z=0.5))
    assert gaps == {"x": 0.5, "y": 0.25}


def test_seeds_are_pooled_by_case(benchmark):
    ours, theirs = [summary(x=0.5, y=0.75), summary(x=1.0, y=0.25)], [summary(x=0.25, y=0.5), summary(x=0.25, y=0.5)]
    found = benchmark("accuracy").differences([3, 4], ours, theirs)
    assert (found["per_seed"]["3"]["mean"], found["per_seed"]["4"]["mean"]) == (0.25, 0.25)
    assert found["per_seed"]["3"]["interval_95"] == [0.25, 0.25]
    assert found["pooled"]["cases"] == 2, "a case counts once, whatever the number of seeds"
    assert found["pooled"]["interval_95"] == [0.0, 0.5], "x gains a half over the seeds, y nothing"


def test_a_fold_of_another_length_or_device_is_refused(benchmark, tmp_path, monkeypatch):
    accuracy, args = benchmark("accuracy"), argparse.Namespace(minutes=5.0, device="cuda")
    monkeypatch.setattr(accuracy, "read_position", lambda _: TrainingPosition(seed=0, epochs=1, iterations_per_epoch=1))
    with pytest.raises(UserError, match=r"minutes unknown, not 5\.0, device unknown, not cuda"):
        accuracy.train(tmp_path, tmp_path, "default", 0, args)
    (tmp_path / "benchmark.json").write_text('{"minutes": 5.0, "device": "cpu"}')
    with pytest.raises(UserError, match="trained with device cpu, not cuda"):
        accuracy.train(tmp_path, tmp_path, "default", 0, args)


def test_more_steps_than_a_model_has_are_refused_before_training(benchmark, model, tmp_path):
    diffusion = {
        "diffusion": None,
        "paper": PaperPlan(),
        "latent": model.plan.latent.model_copy(update={"channels": 1, "level": model.plan.fusion_level}),
    }
    write_record(tmp_path / "plan.json", model.plan.model_copy(update=diffusion))
    args = argparse.Namespace(test=(tmp_path, tmp_path), fold="0", steps=[1, 2000])
    with pytest.raises(UserError, match="the model has 1000 time steps, found 2000"):
        benchmark("accuracy").check(tmp_path, "default", args)


def test_everything_loads_without_optional_libraries_and_says_what_is_left_out(repository):
    code = (
        "import sys; sys.modules['surface_distance'] = sys.modules['SimpleITK'] = None\n"
        f"sys.path.insert(0, {str(repository / 'benchmarks')!r})\n"
        "import accuracy, parts, speed, stored\n"
        "print(*stored.left_out(), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == [
        "surface_distance is not installed",
        "SimpleITK is not installed",
    ]
