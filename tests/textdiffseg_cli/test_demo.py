"""The demo runs the user's commands in order and stops if one fails. Another test runs the commands themselves."""

import shlex
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from plans.layout import FoldFolder
from textdiffseg import phantoms
from textdiffseg.training.log import EpochLog, write_log
from textdiffseg_cli import demo, plan_and_preprocess, predict, report, train


@pytest.fixture
def typed(monkeypatch):
    """Record what all steps but evaluation receive. Predicting copies the references."""
    calls = []

    def step(module, name):
        def main(argv):
            args = module.make_parser().parse_args(argv)  # every command line is one that a user could type
            calls.append([name, *argv])
            if name == "tds_predict":
                shutil.copytree(args.source.parent / "labelsTs", args.out)
            return 0

        monkeypatch.setattr(module, "main", main)

    for module, name in (
        (plan_and_preprocess, "tds_plan_and_preprocess"),
        (train, "tds_train"),
        (predict, "tds_predict"),
        (report, "tds_report"),
    ):
        step(module, name)
    real = phantoms.write_phantoms
    monkeypatch.setattr(phantoms, "write_phantoms", lambda root: real(root, training=1, test=2))
    return calls


def test_the_demo_prints_each_command_as_it_is_run(typed, tmp_path, capsys):
    assert demo.main(["--minutes", "2.5", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    commands = [shlex.split(line[2:]) for line in shown.splitlines() if line.startswith("$ ")]
    assert [*commands[:3], *commands[4:]] == typed
    assert [command[0] for command in commands[3:]] == ["tds_evaluate", "tds_report"]
    assert f"Report:  {tmp_path / 'report.html'}. Open it in a browser." in shown
    assert commands[1][3:5] == ["--max-minutes", "2.5"]
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert (tmp_path / "predictions" / phantoms.NAME / "summary.json").is_file()
    assert "mean Dice: 1.000" in shown
    for name in phantoms.LOOK_ALIKES:
        assert name in shown
    assert "tds_run 1 --hours 4" in shown.partition("your own data")[2]


def epoch(iteration):
    return EpochLog(epoch=0, iteration=iteration, learning_rate=1e-3, losses={}, dice={}, latent_dice={}, seconds=180.0)


@pytest.mark.parametrize(("iterations", "shift", "advised"), [(5, 9, True), (5, 0, False), (300, 9, False)])
def test_a_short_training_with_a_poor_result_is_advised_to_be_longer(
    typed, tmp_path, monkeypatch, capsys, iterations, shift, advised
):
    def moved(argv):
        args = predict.make_parser().parse_args(argv)
        args.out.mkdir(parents=True)
        for path in (args.source.parent / "labelsTs").glob("*.nii.gz"):
            image = sitk.ReadImage(path)
            array = np.roll(sitk.GetArrayFromImage(image), shift, axis=2)
            other = sitk.GetImageFromArray(array)
            other.CopyInformation(image)
            sitk.WriteImage(other, args.out / path.name)
        return 0

    monkeypatch.setattr(predict, "main", moved)
    log = FoldFolder.of(tmp_path, phantoms.NAME, "default", 0).log
    log.parent.mkdir(parents=True)
    write_log(log, [epoch(iterations)])
    assert demo.main(["--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert ("only 5 iterations" in shown) == advised
    assert (f"tds_demo --minutes 180 --root {tmp_path}" in shown) == advised


def test_the_demo_stops_at_the_first_step_that_fails(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "main", lambda argv: 2)
    assert demo.main(["--root", str(tmp_path)]) == 2
    assert [call[0] for call in typed] == ["tds_plan_and_preprocess"]
    assert "tds_predict" not in capsys.readouterr().out


def test_phantoms_that_are_there_stay(typed, tmp_path):
    assert demo.main(["--root", str(tmp_path)]) == 0
    header = tmp_path / "raw" / phantoms.NAME / "dataset.json"
    before = header.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "predictions")
    assert demo.main(["--root", str(tmp_path)]) == 0
    assert header.stat().st_mtime_ns == before
