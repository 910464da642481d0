"""What `tds_train` prints of a trained fold, and in which order."""

from types import SimpleNamespace

import pytest

import textdiffseg as tds
from plans.layout import FoldFolder
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import summarise
from textdiffseg.folds.calibration import Calibration, CalibrationFit, Widening
from textdiffseg.folds.expected_dice import KNOTS, DiceFit
from textdiffseg.folds.postprocessing import Postprocessing
from textdiffseg.validation.findings import LabelFinding
from textdiffseg_cli import run, train
from textdiffseg_cli.train import _print, _print_calibration, _print_expected_dice


@pytest.fixture
def show(capsys, tmp_path):
    """Print a fold with these findings; returns the lines."""

    def printed(*findings, **options):
        scores = LabelScores(dice=0.0, nsd=None, hd95=None, volume_ml=0, reference_ml=1)
        summary = summarise([CaseScores(case="a", labels={"larynx": scores})])
        _print(
            SimpleNamespace(
                summary=summary, findings=findings, held_out=True, calibration=Calibration(),
                postprocessing={"larynx": Postprocessing(components="largest")},
                fold=FoldFolder(tmp_path), latent_dice={"larynx": 0.9}, plan=SimpleNamespace(diffusion=None),
            ), **options,
        )  # fmt: skip
        return capsys.readouterr().out.splitlines()

    return printed


def test_scores_come_first_then_what_was_found_and_the_latent_last(show):
    lines = show(LabelFinding("larynx", 5, 0, 2.0), LabelFinding("cord", 5, 3, None), LabelFinding("neck", 0, 0, None))
    assert lines[-1].startswith("Next: tds_predict -i SCANS -o SEGMENTATIONS -m ")
    order = [
        next(number for number, line in enumerate(lines) if words in line)
        for words in ("Mean over 1 case", "larynx was found in 0 of 5 cases", "encoded and decoded")
    ]
    assert order == sorted(order)
    forecast = "at this pace its Dice reaches 0.5 after about 2 hours in total."
    assert f"larynx was found in 0 of 5 cases: train longer; {forecast}" in lines
    assert "cord was found in 3 of 5 cases." in lines
    assert "To train longer, run the same command with --max-minutes 120." in lines
    assert "neck is in none of the validation cases, so it was not scored." in lines
    assert any(
        line.startswith("Postprocessing of larynx, as these cases gained by it: keep the largest") for line in lines
    )


def test_a_curve_without_a_forecast_gives_no_number(show):
    lines = show(LabelFinding("larynx", 5, 0, None))
    assert "larynx was found in 0 of 5 cases: train longer." in lines
    assert "To train longer, run the same command with more --epochs or --max-minutes." in lines


def test_a_fold_that_finds_everything_is_one_line(show):
    lines = show(LabelFinding("larynx", 5, 5, None), LabelFinding("cord", 4, 4, None))
    assert "Every label was found in every validation case that contains it (2 labels)." in lines
    assert not any("train longer" in line for line in lines)


def test_a_tracked_fold_names_the_command_that_shows_its_curves(show, tmp_path):
    line = f"Curves: tensorboard --logdir {tmp_path / 'tensorboard'}"
    assert line in show(tracked=True)
    assert line not in show()


@pytest.mark.parametrize(("module", "name"), [(train, "train"), (run, "run")])
def test_the_tracker_is_passed_on(monkeypatch, capsys, module, name):
    found = []

    def work(*_, options, **__):
        found.append(options.track)
        raise tds.UserError("stop here")

    monkeypatch.setattr(tds, name, work)
    fold = ["0"] if name == "train" else []
    assert [module.main(["4", *fold, *more]) for more in ([], ["--track", "tensorboard"])] == [2, 2]
    assert found == [None, "tensorboard"]


def test_a_calibration_names_what_it_was_fitted_to(capsys):
    errors = {"ece_before": 0.08, "ece_after": 0.012, "brier_before": 0.126, "brier_after": 0.114}
    shared = {"mirroring": False, "cases": 5, "temperature": 0.6, **errors}
    widening = Widening(factor=0.94, coverage_before={"liver": 1.0}, coverage_after={"liver": 0.9})
    mask = CalibrationFit(steps=0, samples=1, widening=widening, **shared)
    plan = SimpleNamespace(sample_steps=8)
    trained = SimpleNamespace(
        plan=plan, calibration=Calibration(fits=(mask, CalibrationFit(steps=8, samples=8, **shared)))
    )
    _print_calibration(trained)
    mask_line, interval_line, samples_line = capsys.readouterr().out.splitlines()
    assert mask_line == (
        "Probabilities of the mask, 5 cases: temperature 0.60, calibration error 0.080 -> 0.012, "
        "Brier score 0.126 -> 0.114."
    )
    assert interval_line == "  90% intervals of volumes, scaled by 0.94: true volumes inside 100% -> 90%."
    assert samples_line.startswith("Probabilities of 8 samples of 8 steps, 5 cases")


@pytest.mark.parametrize(
    ("trained", "reason"),
    [(True, "--uncertainty was not calibrated: predicting"), (False, "This model draws no samples, for --uncertainty")],
)
def test_the_reason_without_calibrated_samples_is_true(trained, reason, capsys, monkeypatch):
    monkeypatch.setattr("textdiffseg.folds.weights.has_sampler", lambda fold: trained)
    errors = {"ece_before": 0.1, "ece_after": 0.1, "brier_before": 0.1, "brier_after": 0.1}
    mask = CalibrationFit(steps=0, samples=1, mirroring=False, cases=5, temperature=1.0, **errors)
    plan = SimpleNamespace(sample_steps=8)
    _print_calibration(SimpleNamespace(plan=plan, calibration=Calibration(fits=(mask,)), fold=None))
    assert capsys.readouterr().out.splitlines()[-1].startswith(reason)


def test_the_expected_dice_is_printed_with_the_shares_of_reported_masks(capsys):
    fit = DiceFit(
        curve=KNOTS, threshold=0.7, scans=20, degraded=8, poor_dice=0.75, error=0.03, poor_found=0.9, good_flagged=0.05
    )
    _print_expected_dice(fit)
    assert capsys.readouterr().out == (
        "  Expected Dice, from 20 scans (8 degraded): mean error 0.030. Masks below 0.70 are reported: 90% of the poor "
        "masks, 5% of the other masks (poor: Dice below 0.75).\n"
    )
    _print_expected_dice(fit.model_copy(update={"poor_found": None}))
    assert "are reported: 5% of the other masks (poor" in capsys.readouterr().out
