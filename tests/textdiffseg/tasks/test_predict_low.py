"""tds_predict with a trained low resolution: what it reports, and what the manifest records."""

import json

import numpy as np
import pytest

from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.inference import segmenting
from textdiffseg.inference.guide import NOTHING_FOUND, GuideResult
from textdiffseg.inference.region import Region
from textdiffseg.tasks.manifest import Manifest
from textdiffseg_cli.predict import main


@pytest.fixture
def predict(root, make_plan, make_fold, make_scan, bank, capsys, mark_validated):
    """Run the command with the model of a data set that has both resolutions; returns (exit code, stdout, stderr)."""
    low = make_plan(resolution="low", spacing=(2, 2, 2))
    make_fold(root / "results" / low.dataset / "default-low" / "fold_0", low, bank, 7)
    mark_validated(root / "results" / low.dataset / "default-low" / "fold_0", Front_Part=1.0, back=0.96)
    make_scan(root / "scans" / "a_0000.nii.gz", (9, 40, 34))

    def run(*arguments):
        fixed = ["--root", root, "-i", root / "scans", "-o", root / "out", "-d", low.dataset, "--folds", 0]
        code = main([*map(str, fixed), "--no-mirroring", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def manifest(root) -> Manifest:
    return Manifest.read(root / "out" / "a.json")


def test_full_resolution_is_guided_and_the_manifest_records_it(predict, root):
    code, out, _ = predict()
    assert code == 0
    assert "Guide: low resolution (2 x 2 x 2 mm)" in out
    assert "with a margin of 8 x 8 x 8 mm" in out
    request = manifest(root).request
    assert request.resolutions == ("low", "full")
    assert request.guide.folds == ("0",)
    assert request.guide.margin == 4
    assert "1 complete already" in predict()[1]
    code, out, _ = predict("--no-guide")
    assert (code, "1 predicted" in out, "Guide" in out) == (0, True, False)
    assert (manifest(root).request.resolutions, manifest(root).request.guide) == (("full",), None)
    assert "1 complete already" in predict("--best", "--no-guide")[1]


def test_fast_is_low_resolution_alone_in_one_line(predict, root):
    code, out, _ = predict("--fast")
    assert code == 0
    assert "Low resolution alone (2 x 2 x 2 mm): full resolution is not computed." in out
    assert "default-low" in out
    assert manifest(root).request.resolutions == ("low",)
    assert manifest(root).request.folds == ("0",)


def test_a_scan_without_findings_gets_an_empty_mask_and_a_note(predict, root, monkeypatch):
    nothing = GuideResult(Region(np.zeros((9, 20, 17), dtype=bool)), ("Front_Part", "back"))
    monkeypatch.setattr(segmenting, "find_region", lambda *_: nothing)
    code, out, _ = predict("--probabilities")
    assert code == 0
    assert f"Note: case a: {NOTHING_FOUND}" in out
    assert not read_labels(root / "out" / "a.nii.gz").array.any()
    assert len(list((root / "out" / "probabilities").iterdir())) == 2


def test_manifests_of_older_versions_are_those_of_full_resolution(predict, root):
    assert predict("--no-guide")[0] == 0
    path = root / "out" / "a.json"
    fields = json.loads(path.read_text())
    fields["version"] = 3
    del fields["request"]["resolutions"], fields["request"]["guide"]
    path.write_text(json.dumps(fields))
    assert manifest(root).request.resolutions == ("full",)
    assert "1 complete already" in predict("--no-guide")[1]


def test_low_resolution_without_evidence_is_no_guide(predict, root, make_plan, mark_validated):
    folder = root / "results" / make_plan().dataset / "default-low"
    mark_validated(folder / "fold_0", Front_Part=1.0)
    assert "no validation case holds back, so it is not known whether it finds them" in predict()[1]
    (folder / "fold_0").rename(folder / "fold_all")
    full = folder.with_name("default")
    (full / "fold_0").rename(full / "fold_all")
    code, out, err = predict("--folds", "all")
    assert code == 0, err
    assert "was trained on all cases, so it is not known what it misses" in out
