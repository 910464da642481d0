"""The reports and outputs of a prediction: empty masks, pictures, presets, forecasts, and a second run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import textdiffseg as tds
from plans.errors import UserError
from textdiffseg.progress import ProgressEvent
from textdiffseg.tasks.manifest import Manifest
from textdiffseg.tasks.scan_progress import RunProgress
from textdiffseg_cli.predict import main


@pytest.fixture
def scans(root, make_scan):
    """Two scans of two windows along each axis."""
    for index, case in enumerate("ab"):
        make_scan(root / "scans" / f"{case}_0000.nii.gz", (6, 20, 17), seed=index)
    return root / "scans"


@pytest.fixture
def predict(root, scans, capsys):
    """Run the command with -o root/out, one fold and no mirroring; returns (exit code, stdout, stderr)."""

    def run(*arguments, source=scans, out=root / "out"):
        fixed = ["--root", root, "-i", source, "-o", out, "--folds", 0, "--no-mirroring"]
        code = main([*map(str, fixed), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def finding(monkeypatch):
    """A function that restricts predictions to these slots."""
    from textdiffseg.inference import segmenting

    plain = segmenting.segment_image

    def only(*slots):
        def segment_image(*args):
            result = plain(*args)
            return replace(result, slots=np.where(np.isin(result.slots, slots), result.slots, 0))

        monkeypatch.setattr(segmenting, "segment_image", segment_image)

    return only


def test_a_folder_with_scans_and_masks_is_complete_the_second_time(predict, scans, make_scan):
    assert predict(out=scans)[0] == 0
    code, out, _ = predict(out=scans)
    assert (code, "0 predicted, 2 complete already" in out) == (0, True)
    code, out, _ = predict(source=scans / "a_0000.nii.gz", out=scans)
    assert (code, "0 predicted, 1 complete already" in out) == (0, True)
    make_scan(scans / "c_0000.nii.gz", seed=3)
    assert "1 predicted, 2 complete already" in predict(out=scans)[1]


def test_two_scans_with_one_name_are_refused(predict, scans):
    shutil.copy(scans / "a_0000.nii.gz", scans / "a.nii.gz")
    code, _, err = predict(out=scans)
    assert (code, "would both be scan a" in err) == (2, True)


def test_empty_masks_are_reported_and_noted(predict, root, finding):
    finding()
    code, out, _ = predict()
    assert code == 0
    assert "a: the mask is empty: none of Front_Part, back was found." in out
    assert "2 of 2 masks are empty: a, b." in out
    assert "Found in no scan: Front_Part, back." in out
    assert "The mask is empty: no label was found in this scan." in Manifest.read(root / "out" / "a.json").notes
    assert "2 of 2 masks are empty" in predict()[1], "also for masks that were complete already"


def test_only_labels_that_no_scan_has_are_reported(predict, finding):
    finding(1)
    _, out, _ = predict()
    assert "Found in no scan: back." in out
    assert "empty" not in out
    finding(1, 2)
    assert "Found in no scan" not in predict("--overwrite")[1]


def test_the_preset_chooses_among_models(predict, root, make_plan, make_fold, bank):
    make_fold(root / "results" / "Dataset900_Tiny" / "unet" / "fold_0", make_plan("unet"), bank, 0)
    assert predict()[0] == 2, "two models"
    code, out, _ = predict("--preset", "unet")
    assert (code, "Tiny/unet" in out) == (0, True)
    code, _, err = predict("--preset", "paper")
    assert code == 2
    assert "--preset paper" in err
    assert "Trained there: default, unet." in err


def test_pictures_are_drawn_beside_masks_even_in_a_later_run(predict, root):
    out = root / "out"
    assert predict()[0] == 0
    before = (out / "a.nii.gz").stat().st_mtime_ns
    code, output, _ = predict("--picture")
    assert (code, "0 predicted, 2 complete already" in output) == (0, True)
    assert (out / "a.nii.gz").stat().st_mtime_ns == before, "the mask is not predicted again for a picture"
    assert all((out / f"{case}.png").read_bytes().startswith(b"\x89PNG") for case in "ab")
    (out / "a.png").unlink()
    assert "2 complete already" in predict()[1], "a case is complete without a picture"
    predict("--picture")
    assert (out / "a.png").is_file()
    predict("--seed", 5)
    assert not (out / "a.png").exists(), "it showed another mask"


def test_another_file_with_the_picture_s_name_is_not_replaced(predict, root):
    (root / "out").mkdir()
    (root / "out" / "a.png").write_bytes(b"mine")
    code, _, err = predict("--picture")
    assert (code, "a.png exists and was not made by tds_predict" in err) == (2, True)
    assert (root / "out" / "a.png").read_bytes() == b"mine"
    assert predict("--picture", "--overwrite")[0] == 0


def test_a_result_draws_its_own_picture(root, scans, tmp_path):
    import textdiffseg as tds

    model = tds.load(root / "results" / "Dataset900_Tiny" / "default", folds=["0"])
    scan = scans / "a_0000.nii.gz"
    result = model.segment(scan, mirroring=False)
    result.picture(tmp_path / "p.png", scan)
    assert (tmp_path / "p.png").stat().st_size > 5000
    with pytest.raises(UserError, match="expected the segmented one of 6x20x17"):
        result.picture(tmp_path / "q.png", np.zeros((3, 4, 5)), spacing=(1, 1, 1))


class PreparedModel:
    """Two windows for the scan `small`, eight for `large`."""

    plan = None


def test_scans_weigh_as_many_windows_as_they_have(monkeypatch):
    windows = {"small": 2, "large": 8, "unknown": None, "done": 5}
    monkeypatch.setattr("textdiffseg.tasks.scan_progress._windows", lambda _, paths: windows[paths])
    events, lines = [], []
    run = RunProgress(PreparedModel(), {case: case for case in windows}, {"done"}, events.append, lines.append)
    run.of("small")(ProgressEvent("Predict", 0, 1, "window", "small"))
    run.of("small")(ProgressEvent("Predict", 2, 2, "window", "small"))
    run.of("large")(ProgressEvent("Predict", 4, 8, "window", "large"))
    run.of("unknown")(ProgressEvent("Predict", 1, 1, "window", "unknown"))
    assert [event.done / event.total for event in events] == pytest.approx([0.0, 2 / 15, 6 / 15, 1.0])
    assert [event.detail for event in events] == ["small, 1 of 4", "small, 1 of 4", "large, 2 of 4", "unknown, 3 of 4"]


def test_the_duration_is_forecast_from_the_first_windows(predict, root, scans, monkeypatch, tmp_path):
    from textdiffseg import pace

    monkeypatch.setattr(pace, "MIN_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(pace, "MIN_REPORTED_SECONDS", 0.0)
    out = predict("--uncertainty")[1]
    assert "Predicting 2 scans will take about" in out
    assert out.count("will take about") == 1


def test_a_sampling_pass_weighs_more_than_the_mask_s(root, scans):
    import textdiffseg as tds

    model, events = tds.load(root / "results" / "Dataset900_Tiny" / "default", folds=["0"]), []
    model.segment(scans / "a_0000.nii.gz", mirroring=False, uncertainty=True, progress=events.append)
    half = len(events) // 2
    costs = 1 + 8 * (model.plan.sample_steps * 0.25 + 0.5), 1.0
    assert events[half - 1].done / events[half - 1].total == pytest.approx(costs[0] / sum(costs))
    assert events[-1].done == pytest.approx(events[-1].total)


def test_fast_has_fewer_windows_and_is_another_request(predict, root):
    assert "one pass, no mirroring, on cpu" in predict()[1]
    code, out, _ = predict("--fast")
    assert (code, "2 predicted" in out) == (0, True)
    assert "one pass, no mirroring, windows overlap by 0.375, on cpu" in out
    assert Manifest.read(root / "out" / "a.json").request.settings.overlap == 0.375
    with pytest.raises(SystemExit) as refused:
        predict("--fast", "--best")
    assert refused.value.code == 2


def test_threads_change_no_output(predict, root, scans, request):
    (scans / "c_0000.nii.gz").write_bytes(b"no image")
    options = ("--probabilities", "--uncertainty", "--alternatives", 2)
    alone = predict(*options)
    request.getfixturevalue("threads")
    beside = predict(*options, out=root / "beside")
    assert (beside[0], beside[2].count("error:"), "2 predicted" in beside[1]) == (2, 1, True)
    assert alone[0] == 2
    files = sorted(path.relative_to(root / "out") for path in (root / "out").rglob("*.nii.gz"))
    assert len(files) == 2 * (1 + 2 + 2 + 3)
    assert all((root / "beside" / file).read_bytes() == (root / "out" / file).read_bytes() for file in files)


def test_stopping_in_a_thread_leaves_finished_cases_and_no_temporary_files(root, scans, threads):
    model, seen = tds.load(root / "results" / "Dataset900_Tiny" / "default", folds=["0"]), []

    def cancel():
        return bool(list((root / "out").glob("a.json")))

    with pytest.raises(tds.Cancelled):
        tds.predict(scans, root / "out", model=model, progress=seen.append, cancel=cancel)
    assert seen
    assert sorted(path.name for path in (root / "out").iterdir()) == ["a.json", "a.nii.gz"]
    assert tds.predict(scans, root / "out", model=model).skipped == ["a"]


@pytest.mark.parametrize("picture", [False, True])
def test_the_scan_that_a_picture_keeps_counts_as_memory(predict, picture, monkeypatch):
    found = []
    monkeypatch.setattr("textdiffseg.tasks.stages.refuse_too_large", lambda *_, kept, **__: found.append(kept.scan))
    monkeypatch.setattr("textdiffseg.tasks.announce.scan_ram_gb", lambda *_, kept, **__: found.append(kept.scan))
    assert predict(*(["--picture"] if picture else []))[0] == 0
    assert set(found) == {picture}
