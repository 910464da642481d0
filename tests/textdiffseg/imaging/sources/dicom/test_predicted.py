"""`tds_predict` on DICOM: masks on the scans' grids, one line for a faulty series, a series by its UID."""

import json

import nibabel as nib
import numpy as np
import pytest

from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg_cli.predict import main


@pytest.fixture
def hospital(tmp_path, write_series):
    """Two patients; the second has two series in one folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "hospital"
    image = rng.normal(100, 30, (12, 20, 20)).astype(np.int16)
    fields = {"orientation": (0, 1, 0, 0, 0, -1), "spacing": (1, 1)}  # sagittal slices
    write_series(folder / "P1" / "MR", image, [(2 * number, 1, 2) for number in range(12)], series="1.1", **fields)
    write_series(folder / "P2", image, series="1.2", spacing=(1, 1))
    write_series(folder / "P2", image[:6], series="1.3", spacing=(1, 1), name="other{}")
    return folder


def test_masks_lie_on_the_slices(root, hospital, capsys):
    out = root / "out"
    assert main(["--root", str(root), "-i", str(hospital), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 predicted" in shown
    assert "Note: case P2: Its largest series was read, 1.2 (CT, 12 slices of 20x20)." in shown
    assert {path.name for path in out.iterdir()} == {
        "P1_MR.nii.gz",
        "P1_MR.json",
        "P2.nii.gz",
        "P2.json",
        "volumes.csv",
    }
    for case, folder in (("P1_MR", hospital / "P1" / "MR"), ("P2", hospital / "P2")):
        mask, scan = read_labels(out / f"{case}.nii.gz"), read_volume((folder,))
        np.testing.assert_allclose(mask.geometry.affine, scan.geometry.affine, atol=1e-5)
        assert "Secret" not in (out / f"{case}.json").read_text()
    affine = nib.load(out / "P1_MR.nii.gz").affine  # RAS: rows to the back, columns to the feet, slices to the right
    np.testing.assert_allclose(affine[:3, :3], [[0, 0, 2], [-1, 0, 0], [0, -1, 0]], atol=1e-6)
    assert main(["--root", str(root), "-i", str(hospital), "-o", str(out)]) == 0
    assert "2 complete already" in capsys.readouterr().out


def test_control_characters_of_a_header_are_escaped(root, hospital, write_series, capsys):
    """They reach the terminal and the manifest in a note, and the next run reads the manifest."""
    odd = {"series": "1.\x1b[31m4", "modality": "M\nR", "series_number": "\x07"}
    write_series(hospital / "P2", np.ones((3, 20, 20), np.int16), name="odd{}", spacing=(1, 1), **odd)
    arguments = ["--root", str(root), "-i", str(hospital), "-o", str(root / "out")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert not {*"\x1b\x07"} & {*shown}
    assert "1.\\x1b[31m4 (M\\nR, number \\x07, 3 slices" in shown
    assert main(arguments) == 0
    assert "2 complete already" in capsys.readouterr().out


def test_a_series_is_predicted_by_its_uid(root, hospital, capsys):
    out = root / "out"
    for uid, slices in (("1.3", 6), ("1.2", 12)):
        assert main(["--root", str(root), "-i", str(hospital), "-o", str(out), "--series", uid]) == 0
        assert "1 predicted" in capsys.readouterr().out
        assert read_labels(out / f"P2_{uid}.nii.gz").geometry.shape == (slices, 20, 20)
    assert main(["--root", str(root), "-i", str(hospital), "-o", str(out), "--series", "9"]) == 2
    assert "no series '9'. Found: 1.1 (CT, 12 slices of 20x20)" in capsys.readouterr().err


def test_a_faulty_series_gives_one_line_and_the_others_are_predicted(root, hospital, capsys):
    (hospital / "P2" / "slice4.dcm").unlink()
    assert main(["--root", str(root), "-i", str(hospital), "-o", str(root / "out")]) == 2
    shown = capsys.readouterr()
    assert "1 predicted" in shown.out
    (line,) = (one for one in shown.err.splitlines() if one.startswith("error:"))
    assert "slices are not evenly spaced" in line
    assert not (root / "out" / "P2.json").exists()


def test_a_folder_with_a_single_slice_does_not_stop_the_others(root, hospital, write_series, capsys):
    write_series(hospital / "scout", np.ones((1, 20, 20), np.int16), series="1.4", spacing=(1, 1))
    assert main(["--root", str(root), "-i", str(hospital), "-o", str(root / "out")]) == 2
    shown = capsys.readouterr()
    assert "2 predicted" in shown.out
    assert "scout: a single slice" in shown.err


def test_one_slice_and_one_file_name(root, hospital):
    out = root / "masks" / "x.nii.gz"
    assert main(["--root", str(root), "-i", str(hospital / "P1" / "MR" / "slice3.dcm"), "-o", str(out)]) == 0
    manifest = json.loads(out.with_name("x.json").read_text())
    assert manifest["request"]["case"] == "MR"
    assert read_labels(out).geometry.shape == (12, 20, 20)
