"""`tds_predict --alternatives`: files, shares, the manifest, and names that collide."""

import shutil

import numpy as np
import pytest

from textdiffseg.files import hash_files, write_record
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.inference import alternatives as module
from textdiffseg.tasks.manifest import Manifest, is_output
from textdiffseg_cli.predict import main


@pytest.fixture
def predict(root, capsys):
    """Run the command on root/scans; returns (exit code, stdout, stderr)."""

    def run(*arguments, source=root / "scans"):
        code = main(["--root", str(root), "-o", str(root / "out"), "-i", str(source), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def scan(root, make_scan):
    make_scan(root / "scans" / "a_0000.nii.gz")


def written(root):
    return {path.name for path in (root / "out").iterdir()} - {"volumes.csv"}


def test_alternatives_are_written_beside_the_mask_with_their_shares(predict, root):
    code, out, _ = predict("--alternatives", 3)
    assert code == 0
    assert "Alternatives: 3, chosen from 16 samples of 3 steps, no mirroring, seed 0" in out
    names = [f"a.alternative{number}.nii.gz" for number in (1, 2, 3)]
    assert written(root) == {"a.nii.gz", "a.json", *names}
    manifest = Manifest.read(root / "out" / "a.json")
    assert [one.file for one in manifest.alternatives] == names
    assert sum(one.share for one in manifest.alternatives) == pytest.approx(1)
    assert set(names) <= set(manifest.outputs)
    mask = read_labels(root / "out" / "a.nii.gz")
    for name in names:
        found = read_labels(root / "out" / name)
        assert found.geometry.matches(mask.geometry)
        assert set(np.unique(found.array)) <= {0, 3, 7}
        assert is_output(root / "out" / name)
    assert "1 complete already" in predict("--alternatives", 3)[1]


def test_the_mask_is_the_same_and_stale_alternatives_go(predict, root):
    predict()
    plain = (root / "out" / "a.nii.gz").read_bytes()
    assert "1 predicted" in predict("--alternatives", 2)[1]
    assert (root / "out" / "a.nii.gz").read_bytes() == plain
    assert "1 predicted" in predict("--alternatives", 1)[1]
    assert written(root) == {"a.nii.gz", "a.json", "a.alternative1.nii.gz"}
    assert "1 predicted" in predict()[1]
    assert written(root) == {"a.nii.gz", "a.json"}


def test_an_alternative_that_is_gone_is_made_again(predict, root):
    predict("--alternatives", 2)
    (root / "out" / "a.alternative2.nii.gz").unlink()
    assert "1 predicted" in predict("--alternatives", 2)[1]
    assert "a.alternative2.nii.gz" in written(root)


@pytest.mark.parametrize(("iterations", "noted"), [(module.USUAL_SAMPLER_ITERATIONS - 1, True), (400, False)])
def test_a_sampler_of_few_iterations_is_noted(predict, root, monkeypatch, iterations, noted):
    """The note names the iterations of the fold that has fewest. Without --alternatives there is no note."""
    found = iter([400, iterations] * 2)

    def position(fold, checkpoint):
        length = {"epochs": 4, "iterations_per_epoch": 10, "denoiser_epoch": 3, "denoiser_per_epoch": 1000}
        return TrainingPosition(seed=0, iteration=30 + next(found), **length)

    monkeypatch.setattr("textdiffseg.folds.ensemble.noted_position", position)
    _, out, _ = predict("--alternatives", 2)
    line = f"Alternatives: the sampler learned in {iterations} iterations"
    assert (line in out) == noted
    assert any(note.startswith(line) for note in Manifest.read(root / "out" / "a.json").notes) == noted
    assert line not in predict("--overwrite")[1]


def test_fewer_alternatives_are_noted_in_the_manifest_and_on_the_screen(predict, root, monkeypatch):
    plain = module.draw_masks
    monkeypatch.setattr(module, "draw_masks", lambda *arguments: plain(*arguments)[[0] * 16])
    code, out, _ = predict("--alternatives", 3)
    note = "Alternatives: 1 instead of 3, because all samples are equal."
    assert code == 0
    assert f"case a: {note}" in out
    manifest = Manifest.read(root / "out" / "a.json")
    assert (note in manifest.scan_notes, len(manifest.alternatives)) == (True, 1)
    assert "1 complete already" in predict("--alternatives", 3)[1]


def test_a_file_of_another_program_is_not_replaced(predict, root):
    (root / "out").mkdir()
    other = root / "out" / "a.alternative2.nii.gz"
    shutil.copy(root / "scans" / "a_0000.nii.gz", other)
    code, _, err = predict("--alternatives", 2)
    assert (code, "a.alternative2.nii.gz exists and was not made by tds_predict" in err) == (2, True)
    assert predict("--alternatives", 2, "--overwrite")[0] == 0


def test_a_manifest_cannot_name_files_elsewhere(predict, root):
    """A manifest may come from anyone."""
    predict("--alternatives", 1)
    path = root / "out" / "a.json"
    elsewhere = root / "precious.alternative1.nii.gz"
    shutil.copy(root / "scans" / "a_0000.nii.gz", elsewhere)
    manifest = Manifest.read(path)
    outputs = manifest.outputs | {str(elsewhere): hash_files([elsewhere])}
    write_record(path, manifest.model_copy(update={"outputs": outputs}))
    assert "1 predicted" in predict("--alternatives", 2)[1]
    assert elsewhere.is_file()


def test_a_mask_that_loses_labels_is_named(predict, root):
    predict()
    assert "case a: It replaced a mask that also had Front_Part." in predict("--prompt", "back")[1]
    assert "It replaced" not in predict()[1]


def test_an_output_that_is_a_folder_stops_its_case_only(predict, root, make_scan):
    make_scan(root / "scans" / "b_0000.nii.gz")
    (root / "out" / "a.nii.gz").mkdir(parents=True)
    code, _, err = predict("--overwrite")
    assert code == 2
    assert "a.nii.gz is in the way of an output" in err
    assert (root / "out" / "b.nii.gz").is_file()


def test_a_scan_with_the_name_of_an_alternative_is_refused(predict, root, make_scan):
    make_scan(root / "scans" / "a.alternative1_0000.nii.gz")
    code, _, err = predict("--alternatives", 2)
    assert (code, "scan a.alternative1 has the name of an alternative of scan a" in err) == (2, True)
    assert predict()[0] == 0


def test_masks_and_alternatives_in_the_folder_of_the_scans_are_no_scans(predict, root, capsys):
    arguments = ["--root", str(root), "-i", str(root / "scans"), "-o", str(root / "scans"), "--alternatives", "2"]
    for expected in ("1 predicted, 0 complete already", "0 predicted, 1 complete already"):
        assert main(arguments) == 0
        assert expected in capsys.readouterr().out


def test_a_number_out_of_range_is_refused_before_anything_is_written(predict, root):
    code, _, err = predict("--alternatives", 17)
    assert (code, err.count("\n")) == (2, 1)
    assert "expected a whole number from 1 to 16" in err
    assert not (root / "out").exists()


def test_the_memory_line_counts_the_kept_masks(plan):
    from textdiffseg.folds.sampling import PredictionSettings
    from textdiffseg.inference.memory import prediction_ram_gb

    shape, original = (100, 100, 100), (400, 400, 400)
    need = prediction_ram_gb(plan, PredictionSettings(samples=16), 1, shape, original, alternatives=True)
    assert need > (16 + 2) * 400**3 / 1e9, "sixteen masks, and the mask with its copies"
    assert need > prediction_ram_gb(plan, PredictionSettings(samples=16), 1, shape, original)
