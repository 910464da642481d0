import json
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.folds.calibration import AppliedCalibration
from textdiffseg.folds.ensemble import Ensemble
from textdiffseg.folds.sampling import PredictionSettings, Sampling
from textdiffseg.imaging.forms import DISAGREE
from textdiffseg.imaging.sources.files import read_geometry, read_labels, read_volume
from textdiffseg.inference.maps import probability_map
from textdiffseg.inference.model import Model
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.prompting import select_labels
from textdiffseg.inference.scan import CalibratedPredictor
from textdiffseg.inference.segmenting import PreparedModel
from textdiffseg.tasks.manifest import Manifest, read_manifest
from textdiffseg.tasks.predict import (
    PredictionRun,
    find_scans,
    output_place,
    predict_scans,
    report_unsearched,
)

SAMPLES = PredictionSettings(steps=3, samples=8)


def predict_scan(run, case, paths, **more):
    """Predict one scan; returns whether its files are new. A failure is raised."""
    outcome = predict_scans(run, {case: paths}, **more)
    if outcome.failures:
        raise UserError(*outcome.failures)
    return outcome.written == [case]


@pytest.fixture(scope="session")
def networks(plan, make_model):
    return [make_model(plan, 0), make_model(plan, 1)]


def make_run(networks, plan, bank, out, *, settings=None, calibration=None, samples=None, prompts=(), **changes):
    """A run with the folds `networks`. `samples`: settings and calibration of uncertainty."""
    names = tuple(str(number) for number in range(len(networks)))
    digest = changes.pop("hash", "0" * 64)
    ensemble = Ensemble((out,), names, "best", tuple(networks), plan, bank, Sampling(), (), digest)
    masks = CalibratedPredictor(
        Predictor(networks, settings or PredictionSettings()), calibration or AppliedCalibration()
    )
    apart = CalibratedPredictor(Predictor(networks, samples[0]), samples[1]) if samples else None
    prepared = PreparedModel(select_labels(plan, bank, prompts), masks, apart, changes.pop("probabilities", False))
    fields = {"texts": {}, "out": out, "file_name": None, "overwrite": False}
    return PredictionRun(Model(ensemble, "cpu"), prepared, **(fields | changes))


@pytest.fixture
def job(networks, plan, bank, tmp_path):
    def make(prompts=(), out=tmp_path / "out", **changes):
        return make_run(networks, plan, bank, out, prompts=prompts, **changes)

    return make


@pytest.fixture
def scan(tmp_path, make_scan):
    path = tmp_path / "in" / "a_0000.nii.gz"
    make_scan(path)
    return path


def test_a_mask_has_the_scan_s_geometry_and_the_labels_values(job, scan):
    assert predict_scan(job(), "a", (scan,))
    found, given = read_labels(job().out / "a.nii.gz"), read_volume((scan,))
    assert found.geometry.matches(given.geometry, 1e-3)
    assert set(np.unique(found.array)) <= {0, 3, 7}
    assert len(np.unique(found.array)) > 1
    manifest = Manifest.read(job().out / "a.json")
    assert manifest.labels == {"Front_Part": 7, "back": 3}
    voxel = np.prod(given.geometry.spacing) / 1000
    for volume in manifest.volumes:
        count = np.count_nonzero(found.array == manifest.labels[volume.label])
        assert volume.volume_ml == pytest.approx(count * voxel)
        assert volume.low_ml is None


def test_a_prompt_restricts_the_output_to_its_label(job, scan):
    predict_scan(job(["posterior end"]), "a", (scan,))
    assert set(np.unique(read_labels(job().out / "a.nii.gz").array)) <= {0, 3}


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_the_ending_is_that_of_the_scan(job, tmp_path, make_scan, ending):
    path = tmp_path / "in" / f"b{ending}"
    make_scan(path)
    predict_scan(job(), "b", (path,))
    assert (job().out / f"b{ending}").is_file()


def test_complete_cases_are_skipped_and_others_predicted_again(job, scan, make_scan):
    out = job().out
    assert predict_scan(job(), "a", (scan,))
    first = (out / "a.nii.gz").read_bytes()
    assert not predict_scan(job(), "a", (scan,))
    (out / "a.nii.gz").write_bytes(first[:200])
    assert predict_scan(job(), "a", (scan,))
    assert read_labels(out / "a.nii.gz").array.any()
    assert not predict_scan(job(), "a", (scan,))
    assert predict_scan(job(overwrite=True), "a", (scan,))
    assert predict_scan(job(settings=PredictionSettings(seed=1)), "a", (scan,))
    assert predict_scan(job(hash="1" * 64), "a", (scan,))
    make_scan(scan, seed=1)
    assert predict_scan(job(hash="1" * 64), "a", (scan,))


def test_a_corrected_mask_is_kept(job, scan):
    predict_scan(job(), "a", (scan,))
    path = job().out / "a.nii.gz"
    corrected = sitk.ReadImage(str(path)) * 0
    sitk.WriteImage(corrected, str(path))
    before = path.read_bytes()
    outcome = predict_scans(job(), {"a": (scan,)})
    assert outcome.skipped == ["a"]
    assert outcome.empty == [], "the corrected mask is the user's"
    assert outcome.notes == [
        f"case a: {path} was changed after it was predicted. It is kept. Its volumes are those of the prediction; the "
        "files that were made from the mask before the change are deleted, or made again."
    ]
    with pytest.raises(UserError, match="was changed after it was predicted, perhaps by hand"):
        predict_scan(job(hash="1" * 64), "a", (scan,))
    assert path.read_bytes() == before
    assert predict_scan(job(overwrite=True), "a", (scan,))
    assert read_labels(path).array.any()


def test_a_case_with_a_path_as_its_name_deletes_nothing(job, scan):
    out = job().out
    predict_scan(job(probabilities=True), "a", (scan,))
    for name in ("..", str(scan.parent)):
        with pytest.raises(UserError, match="expected a name of printable characters"):
            predict_scan(job(probabilities=True), name, (scan,))
    assert (out / "a.nii.gz").is_file()
    assert scan.is_file()


def test_maps_of_an_older_mask_are_deleted(job, scan):
    def maps():
        return sorted(path.name for path in job().out.rglob("*/*.nii.gz"))

    predict_scan(job(probabilities=True), "a", (scan,))
    assert len(maps()) == 2
    mine = next(job().out.rglob("*/*back*.nii.gz"))
    mine.write_bytes(b"mine")
    predict_scan(job(hash="1" * 64), "a", (scan,))
    assert maps() == [mine.name], "a file that was changed stays"


def test_a_mask_in_another_format_is_written_too_but_replaces_no_file_of_others(job, scan):
    out = job().out
    predict_scan(job(file_name="a.nrrd"), "a", (scan,))
    assert predict_scan(job(file_name="a.nii.gz"), "a", (scan,))
    assert (out / "a.nrrd").is_file()
    assert (out / "a.nii.gz").is_file()
    (out / "a.nii").write_bytes(b"mine")
    with pytest.raises(UserError, match="not made by tds_predict"):
        predict_scan(job(file_name="a.nii"), "a", (scan,))


def test_a_scan_in_another_format_replaces_the_mask_in_the_earlier_one(job, scan):
    out = job().out
    predict_scan(job(), "a", (scan,))
    other = scan.with_name("a_0000.nrrd")
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(other))
    predict_scan(job(), "a", (other,))
    assert sorted(path.name for path in out.glob("a.n*")) == ["a.nrrd"]
    sitk.WriteImage(sitk.ReadImage(str(out / "a.nrrd")) * 0, str(out / "a.nrrd"))
    with pytest.raises(UserError, match=r"a\.nrrd was changed after it was predicted"):
        predict_scan(job(), "a", (scan,))
    assert not (out / "a.nii.gz").exists()


def test_the_reason_that_a_manifest_is_not_that_of_a_mask_is_printed(job, scan, make_scan):
    out = job().out
    make_scan(scan.with_name("b_0000.nii.gz"))
    scans = {"a": (scan,), "b": (scan.with_name("b_0000.nii.gz"),)}
    predict_scans(job(), scans)
    first, second = (out / f"{case}.json" for case in scans)
    own, other = first.read_text(), second.read_text()
    first.write_text(other)
    with pytest.raises(UserError, match=r"a\.json lists other files: b\.nii\.gz"):
        predict_scan(job(), "a", (scan,))
    first.write_text(json.dumps(json.loads(own) | {"threads": "many"}))
    with pytest.raises(UserError, match="threads"):
        predict_scan(job(), "a", (scan,))


def test_a_scan_that_shows_nothing_gets_a_note(job, scan):
    sitk.WriteImage(sitk.ReadImage(str(scan)) * 0, str(scan))
    predict_scan(job(), "a", (scan,))
    assert any("one value in all voxels" in note for note in read_manifest(job().out / "a.json").scan_notes)


def test_a_case_of_an_interrupted_run_is_predicted_again(job, scan):
    predict_scan(job(), "a", (scan,))
    path = job().out / "a.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"outputs": {}}))
    assert predict_scan(job(), "a", (scan,))


def test_files_that_no_prediction_wrote_are_not_replaced(job, scan):
    out = job().out
    out.mkdir()
    (out / "a.nii.gz").write_bytes(b"mine")
    with pytest.raises(UserError, match="not made by tds_predict"):
        predict_scan(job(), "a", (scan,))
    assert (out / "a.nii.gz").read_bytes() == b"mine"
    assert not (out / "a.json").exists()
    assert predict_scan(job(overwrite=True), "a", (scan,))


def test_a_scan_is_never_overwritten(job, tmp_path, make_scan):
    path = tmp_path / "in" / "c.nii.gz"
    make_scan(path)
    with pytest.raises(UserError, match="is the scan itself"):
        predict_scan(job(out=path.parent, overwrite=True), "c", (path,))


def test_a_bad_scan_does_not_stop_the_others(job, scan, make_scan):
    folder = scan.parent
    make_scan(folder / "c_0000.nii.gz", seed=2)
    (folder / "b_0000.nii.gz").write_bytes(scan.read_bytes()[:300])
    make_scan(folder / "d_0000.nii.gz")
    make_scan(folder / "d_0001.nii.gz")
    outcome = predict_scans(job(), find_scans(folder, 1))
    assert outcome.written == ["a", "c"]
    assert len(outcome.failures) == 2
    assert "b_0000.nii.gz" in outcome.failures[0]
    assert "found 2 channels, the model expects 1 (MRI)" in outcome.failures[1]
    assert not list(job().out.glob("[bd].*"))


def test_uncertainty_and_probabilities_become_files_of_the_scan_s_grid(job, scan):
    full = job(samples=(SAMPLES, AppliedCalibration()), probabilities=True)
    predict_scan(full, "a", (scan,))
    grid = read_volume((scan,)).geometry
    manifest = Manifest.read(full.out / "a.json")
    assert set(manifest.outputs) == {
        "a.nii.gz",
        "probabilities/a_1_Front_Part.nii.gz",
        "probabilities/a_2_back.nii.gz",
        "uncertainty/a_entropy.nii.gz",
        "uncertainty/a_between_samples.nii.gz",
        "uncertainty/a_between_folds.nii.gz",
    }
    for name in manifest.outputs:
        volume = read_volume((full.out / name,))
        assert volume.geometry.matches(grid, 1e-3)
        assert volume.array.min() >= 0
    (full.out / "uncertainty" / "a_between_folds.nii.gz").unlink()
    assert predict_scan(full, "a", (scan,))


def test_calibration_changes_probabilities_and_intervals_but_no_mask(job, scan, tmp_path):
    plain, warm = (
        job(out=tmp_path / name, calibration=mask, samples=(SAMPLES, samples), probabilities=True)
        for name, mask, samples in (
            ("plain", AppliedCalibration(widening=1.0), AppliedCalibration()),
            ("warm", AppliedCalibration(temperature=4.0, widening=2.0), AppliedCalibration(temperature=3.0)),
        )
    )
    for one in (plain, warm):
        predict_scan(one, "a", (scan,))

    def read(folder, name):
        return read_volume((folder / name,)).array

    assert (read(plain.out, "a.nii.gz") == read(warm.out, "a.nii.gz")).all()
    for name in ("uncertainty/a_between_samples.nii.gz", "uncertainty/a_between_folds.nii.gz"):
        assert (read(plain.out, name) == read(warm.out, name)).all()
    assert (
        read(warm.out, "uncertainty/a_entropy.nii.gz").mean() > read(plain.out, "uncertainty/a_entropy.nii.gz").mean()
    )
    distribution = [read(one.out, "probabilities/a_1_Front_Part.nii.gz").std() for one in (plain, warm)]
    assert distribution[1] < distribution[0]
    before, after = (Manifest.read(one.out / "a.json") for one in (plain, warm))
    assert after.request.calibration == warm.prepared.mask_predictor.calibration
    assert after.request.sampled.calibration == warm.prepared.uncertainty_predictor.calibration
    for one, wide in zip(before.volumes, after.volumes, strict=True):
        assert wide.volume_ml == one.volume_ml
        assert wide.low_ml <= one.low_ml / 2
        assert wide.high_ml >= one.high_ml * 2


def test_uncertainty_changes_neither_mask_nor_probabilities(job, scan, tmp_path):
    settings = PredictionSettings(mirror_axes=(2,))
    plain = job(out=tmp_path / "plain", settings=settings, probabilities=True)
    selection = job(
        out=tmp_path / "selection", settings=settings, probabilities=True, samples=(SAMPLES, AppliedCalibration())
    )
    events = []
    predict_scan(plain, "a", (scan,))
    predict_scan(selection, "a", (scan,), progress=lambda event: events.append((event.done, event.total)))
    for name in ("a.nii.gz", "probabilities/a_1_Front_Part.nii.gz"):
        assert (read_volume((plain.out / name,)).array == read_volume((selection.out / name,)).array).all()
    request = Manifest.read(selection.out / "a.json").request
    assert (request.settings, request.sampled.settings) == (settings, SAMPLES)
    assert events == sorted(events), "one progress for both passes"
    assert events[-1][0] == pytest.approx(events[-1][1])


def test_another_calibration_is_predicted_again_and_an_older_manifest_has_none(job, scan):
    predict_scan(job(), "a", (scan,))
    path = job().out / "a.json"
    content = json.loads(path.read_text())
    del content["request"]["calibration"]
    path.write_text(json.dumps(content))
    assert not predict_scan(job(), "a", (scan,))
    assert predict_scan(job(calibration=AppliedCalibration(temperature=2.0)), "a", (scan,))


def test_an_unexpected_error_names_its_case(job, scan, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(Predictor, "predict_slabs", broken)
    with pytest.raises(ZeroDivisionError) as error:
        predict_scans(job(), {"a": (scan,)})
    assert any("case a" in note for note in error.value.__notes__)


def test_the_other_channels_of_a_file_are_added(tmp_path, make_scan):
    for name in ("x_0000", "x_0001", "y_0000", "y_0001"):
        make_scan(tmp_path / f"{name}.nii.gz")
    first = tmp_path / "x_0000.nii.gz"
    assert find_scans(first, 2) == {"x": (first, tmp_path / "x_0001.nii.gz")}
    assert find_scans(first, 1) == {"x": (first,)}
    assert set(find_scans(tmp_path, 2)) == {"x", "y"}
    make_scan(tmp_path / "y_0003.nii.gz")
    assert find_scans(first, 2) == {"x": (first, tmp_path / "x_0001.nii.gz")}, "the gap is that of another scan"
    with pytest.raises(UserError, match="case y: channel 0002 is missing"):
        find_scans(tmp_path / "y_0000.nii.gz", 2)


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_scans(tmp_path / "nowhere", 1)
    with pytest.raises(UserError, match="holds no scan"):
        find_scans(tmp_path, 1)


def test_one_scan_may_go_to_one_file(tmp_path):
    assert output_place(tmp_path / "x.nii.gz", 1) == (tmp_path, "x.nii.gz")
    assert output_place(tmp_path / "new", 1) == (tmp_path / "new", None)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match="is a file"):
        output_place(tmp_path / "file.txt", 2)


@pytest.mark.parametrize("name", ["x.nii.gz", "X.NRRD", "x.mgz", "x.dcm"])
def test_several_scans_do_not_go_to_one_file(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} is the name of one file, but 3 scans give 3 masks. Give a folder."):
        output_place(tmp_path / "new" / name, 3)
    assert not (tmp_path / "new").exists()
    (tmp_path / name).mkdir()
    assert output_place(tmp_path / name, 3) == (tmp_path / name, None)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x.nhdr", "masks are not written as .nhdr. Choose a name with .nrrd."),
        ("x.img.gz", "masks are not written as .gz. Choose a name with .nii.gz."),
        ("x.dcm", "masks are not written as .dcm. Choose a name with .nii.gz."),
    ],
)
def test_one_scan_goes_to_a_file_whose_format_is_written(tmp_path, name, sentence):
    with pytest.raises(UserError, match=sentence):
        output_place(tmp_path / name, 1)
    assert not (tmp_path / name).exists()


def test_labels_that_overlap_overwrite_earlier_ones(plan, make_model, bank, scan, tmp_path):
    nested = plan.model_copy(update={"regions": ((3, 7), (3,))})
    job = make_run([make_model(nested, 0)], nested, bank, tmp_path / "out", probabilities=True)
    predict_scan(job, "a", (scan,))
    found = read_labels(job.out / "a.nii.gz").array[0]
    front, back = (read_volume((path,)).array[0] > 0.5 for path in sorted((job.out / "probabilities").iterdir()))
    assert np.array_equal(found, np.where(back, 3, np.where(front, 7, 0)))
    assert (front & back).any()
    volumes = {one.label: one.volume_ml for one in Manifest.read(job.out / "a.json").volumes}
    voxel = np.prod(read_labels(job.out / "a.nii.gz").geometry.spacing) / 1000
    assert volumes["Front_Part"] == pytest.approx(np.isin(found, (3, 7)).sum() * voxel)
    assert volumes["back"] == pytest.approx((found == 3).sum() * voxel)


def test_scans_with_bad_names_or_formats_are_one_line_each_and_the_others_are_predicted(job, tmp_path, make_scan):
    folder = tmp_path / "in"
    make_scan(folder / "good.NII.GZ")
    content = (folder / "good.NII.GZ").read_bytes()
    for name in (b"\xff.nii.gz", b"red\x1b[31m.nii.gz", b"two\nlines.nii.gz", b"\xfe.nrrd", b"other.mgz"):
        (folder / os.fsdecode(name)).write_bytes(content)
    (folder / "long.nrrd").write_bytes(b"NRRD0004\n" + b"a" * 100_000)
    scans = find_scans(folder, 1)
    largest = [read_geometry(paths[0]) for paths in scans.values()]
    outcome = predict_scans(job(), scans)
    assert outcome.written == ["good"]
    assert len(outcome.failures) == 6
    assert sum("expected a name of printable characters" in line for line in outcome.failures) == 4
    assert sorted(path.name for path in job().out.iterdir()) == ["good.json", "good.nii.gz", "volumes.csv"]
    assert largest.count(None) == 3


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_predicted(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("textdiffseg.files.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot be made or written \(Permission denied\)"):
        output_place(tmp_path, 1)


def test_a_scan_in_two_files_gets_a_mask_in_one_file(job, tmp_path, make_scan):
    make_scan(tmp_path / "in" / "a.nii.gz")
    volume = read_volume((tmp_path / "in" / "a.nii.gz",))
    image = sitk.GetImageFromArray(volume.array[0])
    for name in ("b.nhdr", "c.hdr", "d.mhd"):
        sitk.WriteImage(image, str(tmp_path / "in" / name))
    outcome = predict_scans(job(), find_scans(tmp_path / "in", 1))
    assert outcome.failures == []
    masks = {"a.nii.gz", "b.nrrd", "c.nii.gz", "d.mha"}
    assert masks <= {path.name for path in job().out.iterdir()}
    for name in masks - {"a.nii.gz"}:
        assert np.array_equal(read_labels(job().out / name).array.shape, volume.array.shape)
    with pytest.raises(UserError, match=r"x\.hdr: masks are not written as \.hdr. Choose a name with \.nii\.gz"):
        output_place(tmp_path / "x.hdr", 1)


def test_notes_on_a_scan_reach_the_outcome_and_the_manifest(job, scan):
    image = nib.load(scan)
    image.set_qform(np.diag([1, 1, 1, 1]), code=2, update_affine=False)
    image.header["qoffset_x"] += 30
    image.to_filename(scan)
    outcome = predict_scans(job(), {"a": (scan,)})
    assert outcome.notes == [f"case a: {DISAGREE}"]
    assert Manifest.read(job().out / "a.json").scan_notes == (DISAGREE,)
    given, mask = nib.load(scan), nib.load(job().out / "a.nii.gz")
    assert np.array_equal(given.affine, mask.affine)
    assert np.array_equal(given.get_qform(), mask.get_qform())
    assert int(mask.header["qform_code"]) == 2


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        output_place(tmp_path / "file" / "out", 1)


def test_scans_that_are_left_out_are_reported(tmp_path, make_scan):
    make_scan(tmp_path / "a.nii.gz")
    make_scan(tmp_path / "patient" / "b.nii.gz")
    make_scan(tmp_path / "out" / "c.nii.gz")
    lines = []
    report_unsearched(tmp_path, find_scans(tmp_path, 1), tmp_path / "out", lines.append)
    assert lines == [f"Note: the scans in these folders of {tmp_path} are not predicted: patient. Give each with -i."]


def test_long_names_of_labels_are_cut_in_the_names_of_maps():
    names = ("x" * 3000, "\u8111" * 300)
    for name in names:
        assert len(os.fsencode(probability_map(names, name))) < 60
