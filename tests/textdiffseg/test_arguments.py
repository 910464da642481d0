"""Mistakes of Python users are one `UserError` that names the argument, before any work is done."""

from pathlib import Path

import numpy as np
import pytest

import textdiffseg as tds
from textdiffseg.arguments import path_of, several


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda at: tds.plan(at, preset="Unet"), "preset: expected one of 'default'"),
        (lambda at: tds.plan(at, workers=-1), "workers: expected a whole number of at least 0, found -1"),
        (lambda at: tds.plan(at, workers="2"), "workers: expected a whole number"),
        (lambda at: tds.plan(at, gpu_gb=0), "gpu_gb: expected a number above 0"),
        (lambda at: tds.run(at, preset="Default"), "preset: expected"),
        (lambda at: tds.load(at, device="gpu"), "device: expected 'cpu' or 'cuda', found 'gpu'"),
        (lambda at: tds.load(at, backend="OpenVINO"), "backend: expected one of 'torch', 'openvino'"),
        (lambda at: tds.load(at, checkpoint="last"), "checkpoint: expected one of 'best', 'latest'"),
        (lambda at: tds.load(900), "Expected a path, found 900"),
        (lambda at: tds.predict(at, at / "out", conversions=["seperate"]), "conversions: expected one of 'separate'"),
        (lambda at: tds.predict(at, at / "out", model=[at / "m"]), "m is not a folder"),
        (lambda at: tds.new_dataset(at, at, missing="Absent"), "missing: expected one of 'auto'"),
        (lambda at: tds.new_dataset(at, at, number=-1), "number: expected a whole number of at least 1"),
        (lambda at: tds.evaluate(at, at, tolerance_mm=-1), "tolerance_mm: expected a number above 0"),
        (lambda at: tds.evaluate(at, at, tolerance_mm=float("nan")), "tolerance_mm"),
        (lambda at: tds.evaluate(at, at, workers=-1), "workers"),
        (lambda at: tds.write_phantoms(at, seed=-1), "seed: expected a whole number"),
        (lambda at: tds.write_report(900, at / "x.html"), "900"),
        (lambda at: tds.finalize(900, str(at)), "folder"),
        (lambda _: tds.SegmentOptions(prompts="liver"), r"Write \['liver'\]"),
        (lambda _: tds.SegmentOptions(prompts=[1]), "expected phrases in quotes, found 1"),
        (lambda _: tds.SegmentOptions(steps=-1), "steps: expected a whole number of at least 1, found -1"),
        (lambda _: tds.SegmentOptions(samples=2.5), "samples"),
        (lambda _: tds.SegmentOptions(seed=None), "seed"),
        (lambda _: tds.SegmentOptions(effort="Fast"), "effort: expected one of 'fast', 'chosen', 'best'"),
        (lambda _: tds.SegmentOptions(alternatives=99), "alternatives"),
    ],
)
def test_a_mistake_is_a_line_that_names_the_argument(tmp_path, call, words):
    with pytest.raises(tds.UserError, match=words):
        call(tmp_path)


def test_numbers_of_numpy_and_phrases_in_any_container_are_accepted():
    options = tds.SegmentOptions(
        prompts=np.array(["liver", "spleen"]), alternatives=np.int64(2), seed=np.int32(3), steps=np.int64(4)
    )
    assert (options.prompts, options.alternatives, options.seed, options.steps) == (("liver", "spleen"), 2, 3, 4)
    assert tds.SegmentOptions(prompts=(word for word in ["liver"])).prompts == ("liver",)
    assert tds.SegmentOptions(prompts=None).prompts == ()


def test_a_single_value_is_a_list_of_one(tmp_path):
    assert several("CT") == ("CT",)
    assert several(0) == (0,)
    assert several(tmp_path) == (tmp_path,)
    assert several(iter(["a", "b"])) == ("a", "b")


def test_the_user_s_own_folder_has_its_short_form(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert path_of("~/x") == Path(tmp_path) / "x"


@pytest.mark.parametrize("folds", [0, [0], ["0"], np.int64(0)])
def test_a_fold_may_be_a_number(root, plan, folds):
    model = tds.load(root / "results" / plan.dataset / "default", folds=folds, device="cpu")
    assert model.ensemble.folds == ("0",)


def test_a_result_finds_labels_by_name_and_spares_the_scan(root, plan, tmp_path, make_scan):
    scan = tmp_path / "scan.nii.gz"
    make_scan(scan)
    before = scan.read_bytes()
    result = tds.load(root / "results" / plan.dataset / "default", device="cpu").segment(scan)
    assert (result.mask(result.names[0].upper()) == result.mask(result.names[0])).all()
    for call, words in (
        (lambda: result.mask("toe"), "no label 'toe'. It has 'Front_Part'"),
        (lambda: result.write(tmp_path, scan.name), "is the scan itself"),
        (lambda: result.write(tmp_path, "../x.nii.gz"), "without a folder"),
        (lambda: result.write(scan), "is a file, expected a folder"),
        (lambda: result.picture(scan, scan), "ends with .png"),
    ):
        with pytest.raises(tds.UserError, match=words):
            call()
    assert scan.read_bytes() == before
    assert result.write(tmp_path / "out", Path("mask.nii.gz")) == ("mask.nii.gz",)


def test_an_export_replaces_a_packaged_model_alone(root, plan, tmp_path):
    model = root / "results" / plan.dataset / "default"
    target = tmp_path / "paper.docx"
    target.write_bytes(b"mine")
    with pytest.raises(tds.UserError, match="is not a packaged model"):
        tds.export_model(target, model=model)
    assert target.read_bytes() == b"mine"
    target.unlink()
    assert len({one.partition("/")[0] for one in tds.export_model(target, model=model, folds=0).files}) == 1
    tds.export_model(target, model=model)


def test_labels_may_be_a_dict(tmp_path):
    with pytest.raises(tds.UserError, match="scans"):
        tds.new_dataset(tmp_path / "scans", tmp_path / "masks", labels={"liver": 1}, channels="CT", root=tmp_path)
