"""A data set from DICOM scans, with masks that are DICOM objects."""

import json

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

import pydicom

from plans.errors import UserError
from plans.raw.dataset import read_dataset
from textdiffseg.imaging.sources.dicom import drawings
from textdiffseg.imaging.sources.files import read_labels, read_volume
from textdiffseg.imaging.writers.dicom import write_dicom
from textdiffseg.tasks.new import new_dataset
from textdiffseg.tasks.new.sources import found_sources, listed_sources


def header(folder):
    return json.loads((folder / "dataset.json").read_text())


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_dicom_scans_with_dicom_masks(tmp_path, make_series, kind):
    labels = {}
    for place in range(3):
        array = np.random.default_rng(place).integers(-1000, 100, (6, 14, 12))
        scan = make_series(tmp_path / "dicom" / f"p{place}" / "CT", array)
        geometry = read_volume((scan,)).geometry
        labels[f"p{place}"] = np.zeros(geometry.shape, np.uint8)
        labels[f"p{place}"][1:4, 3:8, 4:9] = 1
        labels[f"p{place}"][4:6, 3 : 5 + place, 4:9] = 2
        path = tmp_path / "dicom" / f"p{place}" / "drawn" / "1.dcm"
        write_dicom({kind: path}, labels[f"p{place}"], geometry, {"left lung": (1,), "GTV": (2,)}, scan, "1")
    both, root = (tmp_path / "dicom", tmp_path / "dicom"), tmp_path / "root"
    new_dataset(*both, root=root, name="Lungs")
    folder = root / "raw" / "Dataset001_Lungs"
    assert header(folder)["labels"] == {"background": 0, "left lung": 1, "GTV": 2}
    dataset = read_dataset(folder)
    assert len(dataset.cases) == 3
    for case, expected in zip(dataset.cases, labels.values(), strict=True):
        assert np.array_equal(read_labels(case.label).array[0], expected)
        assert read_volume(case.images).geometry.matches(read_labels(case.label).geometry)
    two = tmp_path / "dicom" / "p0" / "drawn" / "2.dcm"
    two.write_bytes(two.with_name("1.dcm").read_bytes())
    again = new_dataset(*both, root=root, name="Two")
    assert any("belong to one series" in line for line in again.sources.doubtful)
    two.unlink()
    new_dataset(*both, root=root, name="One", labels=["gtv=4"])
    assert header(folder.parent / "Dataset003_One")["labels"] == {"background": 0, "gtv": 4}


def test_a_segmentation_on_tilted_slices_is_straightened_with_its_scan(tmp_path, make_series):
    scan = make_series(tmp_path / "p" / "CT", np.random.default_rng(0).integers(-99, 99, (6, 20, 12)), shift=1.0)
    volume = read_volume((scan,))
    mask = np.zeros(volume.geometry.shape, np.uint8)
    mask[2:4, 8:12, 4:9] = 1
    write_dicom({"dicom-seg": tmp_path / "p" / "seg.dcm"}, mask, volume.geometry, {"GTV": (1,)}, scan, "1")
    made = new_dataset(tmp_path, tmp_path, root=tmp_path / "root", name="Tilted")
    (case,) = made.dataset.cases
    assert np.array_equal(read_labels(case.label).array[0], mask)


def test_halves_of_a_series_beside_another_one(tmp_path, make_series):
    """Halves that are one stack are one case. Others are named."""
    scans, array = tmp_path / "scans", np.random.default_rng(0).integers(-99, 99, (6, 14, 12))
    for patient in ("p1", "p2"):
        whole = make_series(scans / patient / "a", array)
        make_series(scans / patient / "other", array)
        (whole.parent / "b").mkdir()
        for number in (3, 4, 5):
            (whole / f"{number:03d}.dcm").rename(whole.parent / "b" / f"{number:03d}.dcm")
        volume = read_volume((whole / "000.dcm",))
        mask = np.ones(volume.geometry.shape, np.uint8)
        write_dicom(
            {"dicom-seg": tmp_path / "masks" / f"{patient}.dcm"},
            mask,
            volume.geometry,
            {"GTV": (1,)},
            whole / "000.dcm",
            "1",
        )
    made = new_dataset(scans, tmp_path / "masks", root=tmp_path, name="Halves")
    assert [read_volume(case.images).array.shape[1] for case in made.dataset.cases] == [6, 6]
    assert not made.sources.doubtful
    assert any(note.startswith("Its slices were read from 2 folders: a, b.") for note in made.notes)
    (scans / "p2" / "a" / "002.dcm").unlink()
    (tmp_path / "list.csv").write_text(
        "case,image,mask\np1,scans/p1/a/000.dcm,masks/p1.dcm\nx,scans/p2/a,masks/p2.dcm\ny,scans/p2/b,masks/p2.dcm\n"
    )
    for sources in (found_sources(scans, tmp_path / "masks"), listed_sources(tmp_path / "list.csv")):
        (line,) = (one for one in sources.doubtful if "lie in several folders" in one)
        assert f"{scans}/p2/a (2 files), {scans}/p2/b (3 files)" in line


def test_the_background_of_a_label_map_is_no_structure(tmp_path, monkeypatch):
    """Segment 0 of a label map is always the background."""
    from pydicom import Dataset

    segments = [Dataset(), Dataset()]
    for number, (one, name) in enumerate(zip(segments, ("Background", "GTV"), strict=True)):
        one.SegmentNumber, one.SegmentLabel = number, name
    whole = Dataset()
    whole.SegmentSequence = segments
    monkeypatch.setattr(drawings, "drawing_kind", lambda _: "DICOM-SEG")
    monkeypatch.setattr(drawings, "_dataset", lambda *_, **__: whole)
    assert drawings.read_drawing(tmp_path / "seg.dcm").names == {1: "GTV"}


def draw_scans(folder, make_series, count, kind, **names):
    """Write `count` scans of noise to folder/pN/CT, each with a drawn box in folder/pN/drawn.dcm."""
    for place in range(count):
        noise = np.random.default_rng(place).integers(-99, 99, (4, 9, 8))
        scan = make_series(folder / f"p{place}" / "CT", noise)
        geometry = read_volume((scan,)).geometry
        mask = np.zeros(geometry.shape, np.uint8)
        mask[1:3, 2:6, 2:6] = 1
        write_dicom({kind: folder / f"p{place}" / "drawn.dcm"}, mask, geometry, {"GTV": (1,)} | names, scan, "1")


def opened(path, structure):
    """Make the outlines of a structure open ones."""
    content = pydicom.dcmread(path)
    for contour in content.ROIContourSequence[structure].ContourSequence:
        contour.ContourGeometricType = "OPEN_PLANAR"
    content.save_as(path)


def test_structures_without_closed_outlines_are_named(tmp_path, make_series):
    draw_scans(tmp_path / "in", make_series, 3, "rtstruct", copy=(1,), nothing=(7,))
    for place in (0, 1, 2):
        opened(tmp_path / "in" / f"p{place}" / "drawn.dcm", 1)
    opened(tmp_path / "in" / "p0" / "drawn.dcm", 0)
    made = new_dataset(tmp_path / "in", tmp_path / "in", root=tmp_path, name="Open", missing="absent")
    assert [label.name for label in made.dataset.labels] == ["GTV"]
    assert "GTV has no closed outlines, so it counts as not drawn. Cases: p0_drawn." in made.notes
    assert "copy has no closed outlines, so it counts as not drawn. Cases: p0_drawn, p1_drawn, p2_drawn." in made.notes
    assert "No case has a voxel of these structures, so they are not labels: copy, nothing." in made.notes


@pytest.mark.parametrize(("labels", "words"), [((), "All masks are empty"), (["GTV=1"], "No mask holds one of --lab")])
def test_masks_without_any_closed_outline_have_the_reason(tmp_path, make_series, labels, words):
    draw_scans(tmp_path / "in", make_series, 2, "rtstruct")
    for place in (0, 1):
        opened(tmp_path / "in" / f"p{place}" / "drawn.dcm", 0)
    with pytest.raises(UserError) as error:
        new_dataset(tmp_path / "in", tmp_path / "in", root=tmp_path, name="Open", labels=labels)
    assert words in error.value.lines[0]
    assert error.value.lines[1] == "GTV has no closed outlines, so it counts as not drawn. Cases: p0_drawn, p1_drawn."


def test_a_malformed_object_leaves_out_its_case_alone(tmp_path, make_series):
    draw_scans(tmp_path / "in", make_series, 3, "rtstruct")
    structures = pydicom.dcmread(tmp_path / "in" / "p0" / "drawn.dcm")
    structures.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    structures.save_as(tmp_path / "in" / "p0" / "drawn.dcm")
    structures = pydicom.dcmread(tmp_path / "in" / "p1" / "drawn.dcm")
    structures.StructureSetROISequence = []
    structures.save_as(tmp_path / "in" / "p1" / "drawn.dcm")
    made = new_dataset(tmp_path / "in", tmp_path / "in", root=tmp_path, name="Damaged")
    assert [case.id for case in made.dataset.cases] == ["p2_drawn"]
    assert "an outline of GTV has 2 coordinates, expected three for each point" in made.left_out[0]
    assert "expected 1 to 1000 structures, found 0" in made.sources.doubtful[0]


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_an_object_that_lacks_a_field_leaves_out_its_case_alone(tmp_path, make_series, kind):
    draw_scans(tmp_path / "in", make_series, 5, kind)
    for place in range(3):
        path = tmp_path / "in" / f"p{place}" / "drawn.dcm"
        drawn = pydicom.dcmread(path)
        (structure,) = drawn.SegmentSequence if kind == "dicom-seg" else drawn.StructureSetROISequence
        number = "SegmentNumber" if kind == "dicom-seg" else "ROINumber"
        if place == 0:
            delattr(structure, number)
        elif place == 1:
            setattr(structure, number, None)
        elif kind == "dicom-seg":
            del drawn.ReferencedSeriesSequence[0].SeriesInstanceUID
        else:
            frame = drawn.ReferencedFrameOfReferenceSequence[0]
            del frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID
        drawn.save_as(path)
    made = new_dataset(tmp_path / "in", tmp_path / "in", root=tmp_path, name="Damaged")
    assert [case.id for case in made.dataset.cases] == ["p3_drawn", "p4_drawn"]
    lines = [line for line in made.sources.doubtful if "a part is missing or malformed" in line]
    assert len(lines) == 3


def test_a_mask_that_was_drawn_on_one_of_two_channels(tmp_path, make_series):
    rows = ["case,image_0,image_1,mask"]
    for place in range(2):
        arrays = np.random.default_rng(place).integers(0, 500, (2, 4, 9, 8))
        first, _ = (make_series(tmp_path / f"p{place}_T{n}", array) for n, array in enumerate(arrays, start=1))
        geometry = read_volume((first,)).geometry
        mask = np.zeros(geometry.shape, np.uint8)
        mask[1:3, 2:6, 2:6] = 1
        write_dicom({"dicom-seg": tmp_path / f"p{place}.dcm"}, mask, geometry, {"GTV": (1,)}, first, "1")
        rows.append(f"p{place},p{place}_T1,p{place}_T2,p{place}.dcm")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    made = new_dataset(tmp_path / "list.csv", root=tmp_path, name="Two")
    assert [len(case.images) for case in made.dataset.cases] == [2, 2]
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("_T2", "_T1"))
    with pytest.raises(UserError, match="is given for two channels"):
        new_dataset(tmp_path / "list.csv", root=tmp_path, name="Same")
