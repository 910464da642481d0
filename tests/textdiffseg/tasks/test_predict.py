"""The command `tds_predict`: its files, its reports and its errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.files import temporary_name, write_record
from textdiffseg.folds.calibration import AppliedCalibration, Calibration, CalibrationFit, Widening
from textdiffseg.folds.expected_dice import KNOTS
from textdiffseg.imaging.sources import files
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.inference import memory
from textdiffseg.tasks.manifest import Manifest
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import hash_text
from textdiffseg_cli.predict import main


@pytest.fixture
def predict(root, capsys):
    """Run the command with -o root/out; returns (exit code, stdout, stderr)."""

    def run(*arguments, out=root / "out"):
        code = main(["--root", str(root), "-o", str(out), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scans(root, make_scan):
    """Two scans of two windows along each axis."""
    for index, case in enumerate("ab"):
        make_scan(root / "scans" / f"{case}_0000.nii.gz", (6, 20, 17), seed=index)
    return root / "scans"


def test_in_and_out_are_enough(predict, root, scans):
    code, out, _ = predict("-i", scans)
    assert code == 0
    assert "folds 0, 1" in out
    assert "2 predicted" in out
    assert out.index("RAM: about") < out.index("2 predicted")
    assert {path.name for path in (root / "out").iterdir()} == {
        "a.nii.gz",
        "a.json",
        "b.nii.gz",
        "b.json",
        "volumes.csv",
    }
    assert set(np.unique(read_labels(root / "out" / "a.nii.gz").array)) <= {0, 3, 7}
    code, out, _ = predict("-i", scans)
    assert "0 predicted, 2 complete already" in out


def test_temporary_files_of_a_killed_prediction_are_deleted(predict, root, scans):
    left = temporary_name("a.nii.gz").replace(f"-{os.getpid()}-", "-99999999-")
    for folder in (root / "out", root / "out" / "uncertainty"):
        (folder / left).mkdir(parents=True)
        (folder / left / "a.nii.gz").write_text("half")
    assert predict("-i", scans)[0] == 0
    assert {path.name for path in (root / "out").rglob(".*")} == set()


def test_a_scan_whose_name_cannot_be_printed_is_one_line_and_the_others_are_predicted(predict, root, scans, make_scan):
    make_scan(root / "scans" / "c\x1b[31m\nerror: d_0000.nii.gz")
    code, out, err = predict("-i", scans)
    assert code == 2
    assert "\nerror: d" not in err
    assert "2 predicted" in out
    assert "c\\x1b[31m\\nerror: d_0000.nii.gz: expected a name of printable characters in UTF-8" in err


def test_settings_reach_the_manifest(predict, root, scans):
    code, _, _ = predict(
        "-i", scans / "a_0000.nii.gz", "--folds", 1, "--steps", 3, "--samples", 2, "--no-mirroring", "--seed", 7,
        "--checkpoint", "latest", "--device", "cpu",
    )  # fmt: skip
    request = Manifest.read(root / "out" / "a.json").request
    assert code == 0
    assert (request.folds, request.checkpoint) == (("1",), "latest")
    assert request.settings.model_dump() == {
        "steps": 3, "samples": 2, "mirror_axes": (), "overlap": 0.5, "seed": 7
    }  # fmt: skip


def test_prompts(predict, root, scans):
    code, _, err = predict("-i", scans, "--prompt", "something else")
    assert code == 2
    assert err.count("(label") == 3
    assert not (root / "out").exists()
    code, _, _ = predict("-i", scans, "--prompt", "anterior end", "back")
    assert code == 0
    assert Manifest.read(root / "out" / "a.json").labels == {"Front_Part": 7, "back": 3}
    code, _, _ = predict("-i", scans, "--prompt", "something else", "--force")
    assert code == 0
    assert Manifest.read(root / "out" / "a.json").labels == {"something else": 1}
    assert set(np.unique(read_labels(root / "out" / "a.nii.gz").array)) <= {0, 1}


def test_the_memory_estimate_includes_rivals(predict, scans, monkeypatch):
    counts = []
    monkeypatch.setattr(memory, "prediction_ram_gb", lambda *_, slots, **__: counts.append(slots) or 1.0)
    assert predict("-i", scans, "--prompt", "back")[0] == 0
    assert set(counts) == {2}


def test_a_scan_that_cannot_fit_is_refused_before_it_is_read(predict, root, scans, make_scan, monkeypatch):
    make_scan(scans / "huge_0000.nii.gz", shape=(12, 22, 40))
    monkeypatch.setattr(memory, "free_memory", lambda: 1e9)
    monkeypatch.setattr(memory, "own_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "prediction_ram_gb", lambda *a, **_: 70.0 if 40 in a[4] else 0.5)
    read = []
    monkeypatch.setattr(
        files,
        "read_volume",
        lambda paths, plain=files.read_volume, **more: read.append(paths[0].name) or plain(paths, **more),
    )
    code, out, err = predict("-i", scans, "--alternatives", "2", "--no-mirroring")
    assert (code, "2 predicted" in out) == (2, True)
    assert err.count("error:") == 1
    assert "case huge: its prediction needs about 70.0 GB of memory, and 1.0 GB are free. To make room, close" in err
    assert "query fewer labels (--prompt), leave out --alternatives" in err
    assert "--samples" not in err, "the mask is one pass"
    assert "huge_0000.nii.gz" not in read
    assert not list((root / "out").glob("huge*"))


def test_a_file_of_prompts_decides_names_and_values(predict, root, scans):
    def predict_with(**values):
        labels = {"tip": {"phrase": "front part", "value": 50}, "rest": {"phrase": "back", "value": 60}}
        for name, value in values.items():
            labels[name]["value"] = value
        (root / "selection.json").write_text(json.dumps({"version": 1, "labels": labels}))
        return predict("-i", scans, "--prompts", root / "selection.json", "--no-mirroring")

    code, out, _ = predict_with()
    manifest = Manifest.read(root / "out" / "a.json")
    assert code == 0
    assert "tip = 50, rest = 60" in out
    assert manifest.labels == {"tip": 50, "rest": 60}
    assert manifest.request.answers == (("tip", 50), ("rest", 60))
    first = read_labels(root / "out" / "a.nii.gz").array
    assert set(np.unique(first)) <= {0, 50, 60}
    assert first.any()
    assert "2 complete already" in predict_with()[1]
    assert "2 predicted" in predict_with(tip=7)[1], "another value is another request"
    second = read_labels(root / "out" / "a.nii.gz").array
    np.testing.assert_array_equal(np.where(first == 50, 7, first), second)


def test_a_file_of_prompts_excludes_prompts_on_the_command_line(predict, scans, capsys):
    with pytest.raises(SystemExit) as end:
        predict("-i", scans, "--prompts", "selection.json", "--prompt", "back")
    assert end.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
    code, _, err = predict("-i", scans, "--prompts", "selection.json")
    assert (code, "selection.json does not exist" in err) == (2, True)


@pytest.fixture
def reading(root):
    """The trained folds, of a plan that reads texts of cases."""
    for path in root.glob("results/*/*/fold_*/plan.json"):
        plan = Plan.read(path)
        write_record(path, plan.model_copy(update={"text": plan.text.model_copy(update={"of_cases": True})}))
    return root


def test_a_case_s_text_reaches_its_mask_and_manifest(predict, reading, scans):
    texts, out = reading / "texts", reading / "out"
    texts.mkdir()
    (texts / "a.txt").write_text("a dark spot in front")
    command = ("-i", scans, "--no-mirroring", "--probabilities", "--folds", 0)
    plain, maps = reading / "plain", "probabilities/{}_1_Front_Part.nii.gz"
    predict(*command, out=plain)

    def content(folder, case):
        return read_volume([folder / maps.format(case)]).array

    code, output, _ = predict(*command, "--texts", texts)
    assert code == 0
    assert "Texts: 1 of 2 scans have one." in output
    hashes = [Manifest.read(out / f"{case}.json").request.text for case in "ab"]
    assert hashes == [hash_text("a dark spot in front"), None]
    first = content(out, "a")
    assert np.abs(first - content(plain, "a")).max() > 1e-4
    assert np.array_equal(content(out, "b"), content(plain, "b"))
    (texts / "a.txt").write_text("a bright spot\nbehind")
    assert "1 predicted, 1 complete already" in predict(*command, "--texts", texts)[1], "another text, a new mask"
    assert np.abs(content(out, "a") - first).max() > 1e-4
    (texts / "a.txt").write_text(" a bright spot behind\n")
    assert "0 predicted, 2 complete already" in predict(*command, "--texts", texts)[1], "the same words"
    assert "1 predicted, 1 complete already" in predict(*command)[1]
    assert np.array_equal(content(out, "a"), content(plain, "a"))


def test_texts_of_no_scan_and_missing_encoders_are_errors(predict, reading, scans):
    texts = reading / "texts"
    code, _, err = predict("-i", scans, "--texts", texts)
    assert (code, "texts is not a folder" in err) == (2, True)
    texts.mkdir()
    for case in "cd":
        (texts / f"{case}.txt").write_text("words")
    code, _, err = predict("-i", scans, "--texts", texts)
    assert code == 2
    assert "holds no text of a scan: expected for example a.txt" in err
    (texts / "a.txt").write_text("words")
    code, out, _ = predict("-i", scans, "--texts", texts, out=reading / "whole")
    assert code == 0
    assert "Texts: 1 of" in out
    assert "2 texts in" in out
    for path in reading.glob("results/*/*/fold_*"):
        words = FoldFolder(path).words
        bank = TextBank.load(words)
        replace(bank, space=replace(bank.space, encoder=str(reading / "gone"))).save(words)
        plan = Plan.read(path / "plan.json")
        text = plan.text.model_copy(update={"encoder": str(reading / "gone")})
        write_record(path / "plan.json", plan.model_copy(update={"text": text}))
    code, _, err = predict("-i", scans, "--texts", texts)
    assert code == 2
    assert "which is not loaded by itself" in err
    code, _, err = predict("-i", scans, "--texts", texts, "--text-encoder", reading / "gone")
    assert code == 2
    assert "gone' cannot be loaded" in err
    assert not (reading / "out").exists()
    assert predict("-i", scans)[0] == 0, "without texts no encoder is needed"


def test_a_model_trained_without_texts_refuses_them(predict, root, scans):
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("words")
    code, _, err = predict("-i", scans, "--texts", root / "texts")
    assert code == 2
    assert "this model does not read case texts" in err


def test_uncertainty_writes_maps(predict, root, scans):
    predict("-i", scans / "a_0000.nii.gz", out=root / "plain")
    code, out, _ = predict("-i", scans / "a_0000.nii.gz", "--uncertainty")
    plain, manifest = (Manifest.read(root / folder / "a.json") for folder in ("plain", "out"))
    assert code == 0
    assert "Uncertainty: 8 samples of 3 steps, no mirroring, seed 0, predicted in addition to the mask" in out
    assert manifest.request.settings == plain.request.settings
    assert manifest.outputs["a.nii.gz"] == plain.outputs["a.nii.gz"], "the mask is the same as without uncertainty"
    assert manifest.volumes == plain.volumes
    assert len(list((root / "out" / "uncertainty").iterdir())) == 3


def test_labels_that_overlap_have_uncertainty_too(predict, root, scans):
    for path in root.glob("results/*/*/fold_*/plan.json"):
        write_record(path, Plan.read(path).model_copy(update={"regions": ((3, 7), (3,))}))
    assert predict("-i", scans / "a_0000.nii.gz", "--uncertainty", "--no-mirroring")[0] == 0
    whole, part = Manifest.read(root / "out" / "a.json").volumes
    assert part.volume_ml < whole.volume_ml
    (entropy,) = (root / "out" / "uncertainty").glob("*_entropy.nii.gz")
    assert 0 < read_volume((entropy,)).array.max() <= 2, "at most one bit per label"


@pytest.fixture
def calibrated(root):
    """The folds with a fit for masks and one for the setting of --uncertainty."""
    figures = dict.fromkeys(("ece_before", "ece_after", "brier_before", "brier_after"), 0.1)
    widening = Widening(factor=1.25, coverage_before={}, coverage_after={})
    curve = {"curve": KNOTS, "threshold": 0.98, "scans": 8, "degraded": 4, "poor_dice": 0.75, "error": 0.1}
    of_masks = CalibrationFit(
        steps=0, samples=1, mirroring=False, cases=4, temperature=2.0, widening=widening, expected_dice=curve, **figures
    )
    of_samples = CalibrationFit(steps=3, samples=8, mirroring=False, cases=4, temperature=1.5, **figures)
    for fold in root.glob("results/*/*/fold_*"):
        write_record(fold / "calibration.json", Calibration(fits=(of_masks, of_samples)))


def test_a_calibration_is_applied_to_its_own_setting_and_reported(predict, root, scans, calibrated):
    scan = scans / "a_0000.nii.gz"
    _, out, _ = predict("-i", scan, "--uncertainty", "--no-mirroring")
    assert "Calibration of uncertainty: temperature 1.50" in out
    assert "Volumes: with 90% intervals" in out
    request = Manifest.read(root / "out" / "a.json").request
    assert (request.calibration.temperature, request.calibration.widening) == (2.0, 1.25)
    assert request.sampled.calibration == AppliedCalibration(temperature=1.5)
    _, out, _ = predict("-i", scan, "--probabilities", "--no-mirroring", "--steps", 2, out=root / "other")
    assert "Calibration of probabilities: none, as validation fitted none for these settings" in out
    assert "90% intervals" not in out
    manifest = Manifest.read(root / "other" / "a.json")
    assert (manifest.request.calibration, manifest.expected_dice) == (AppliedCalibration(), None)
    assert {volume.low_ml for volume in manifest.volumes} == {None}


def test_volumes_have_intervals_and_masks_an_expected_dice_without_samples(predict, root, scans, calibrated):
    code, out, _ = predict("-i", scans, "--no-mirroring")
    assert code == 0
    manifest = Manifest.read(root / "out" / "a.json")
    assert all(volume.low_ml <= volume.volume_ml <= volume.high_ml for volume in manifest.volumes)
    dice = manifest.expected_dice
    assert set(dice.labels) == set(manifest.labels)
    assert dice.mean == pytest.approx(sum(dice.labels.values()) / 2)
    assert (dice.threshold, dice.needs_check) == (0.98, True)
    assert dice.note in manifest.notes
    assert f"a: {dice.note}" in out
    assert "2 of 2 masks to check (low expected Dice): a, b." in out


def test_bad_scans_are_listed_after_the_good_ones(predict, root, scans, make_scan):
    (scans / "c_0000.nii.gz").write_bytes(b"no image")
    make_scan(scans / "d_0000.nii.gz")
    make_scan(scans / "d_0001.nii.gz")
    code, out, err = predict("-i", scans)
    assert code == 2
    assert "2 predicted" in out
    assert "c_0000.nii.gz" in err
    assert "found 2 channels, the model expects 1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-i", "nowhere"), "does not exist"),
        (("-i", "SCANS", "--folds", "4"), "has no trained fold 4; it has 0, 1"),
        (("-i", "SCANS", "-m", "nowhere"), "is not a folder"),
        (("-i", "SCANS", "-d", "7"), "No data set '7'"),
    ],
)
def test_mistakes_get_a_line_and_exit_code_2(predict, root, scans, arguments, sentence):
    code, _, err = predict(*(str(scans) if argument == "SCANS" else argument for argument in arguments))
    assert code == 2
    assert sentence in err
    assert not (root / "out").exists()


@pytest.mark.parametrize("option", [("--steps", 2), ("--samples", 3), ("--uncertainty",)])
def test_samples_of_a_model_whose_denoiser_is_not_trained_are_refused(predict, root, scans, option):
    for path in root.glob("results/*/*/fold_0/checkpoint_*"):
        save_file(load_file(path) | {"ema.spread": torch.zeros(())}, path)
    code, _, err = predict("-i", scans, *option)
    assert code == 2
    assert "A fold of this model has no samples yet" in err
    assert "leave out --steps, --samples, --uncertainty" in err
    assert predict("-i", scans)[0] == 0, "masks need no denoiser"


def test_a_file_with_the_manifest_s_name_is_not_replaced(predict, root, scans):
    other = root / "out" / "a.json"
    other.parent.mkdir()
    other.write_text("{}")
    code, _, err = predict("-i", scans)
    assert code == 2
    assert "a.json is not a manifest of tds_predict" in err
    assert other.read_text() == "{}"
    assert predict("-i", scans, "--overwrite")[0] == 0


def test_an_empty_folder_is_an_error(predict, root):
    (root / "empty").mkdir()
    code, _, err = predict("-i", root / "empty")
    assert code == 2
    assert "holds no scan" in err


def test_an_output_that_is_a_file_is_refused(predict, root, scans):
    (root / "file.txt").write_text("")
    code, _, err = predict("-i", scans, out=root / "file.txt")
    assert code == 2
    assert "is a file" in err


def test_monai_and_transformers_are_not_imported(root, scans):
    code = (
        "import sys\n"
        "from textdiffseg_cli.predict import main\n"
        f"main(['--root', {str(root)!r}, '-i', {str(scans)!r}, '-o', {str(root / 'out')!r}])\n"
        "print(sorted({'monai', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "[]"
