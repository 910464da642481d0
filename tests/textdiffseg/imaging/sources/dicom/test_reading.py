"""Values and places of DICOM scans, in every form in which they come."""

import locale
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.geometry import resampled_shape
from textdiffseg.imaging.sources.dicom import slice_files, source_slices
from textdiffseg.imaging.sources.dicom.files import DicomFile
from textdiffseg.imaging.sources.files import files_of, read_geometry, read_volume
from textdiffseg.imaging.volume import to_canonical
from textdiffseg.imaging.writers.source_slices import read_slices

SLOPES = [(1, 0), (2, 1), (0.5, 2), (1.5, -3), (0.1234567, 0.5)]


@pytest.fixture
def own_locale():
    """ITK's DICOM writer (not its reader) leaves the process in the locale C, where text files are read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def expected(voxels, slopes=SLOPES):
    return np.array([plane * slope + intercept for plane, (slope, intercept) in zip(voxels, slopes, strict=True)])


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("form", ["folder", "slice", "zip", "nested zip", "implicit", "without ending"])
def test_each_form_of_a_series_gives_the_same_scan(tmp_path, write_series, voxels, form):
    each = [{"slope": slope, "intercept": intercept} for slope, intercept in SLOPES]
    syntax = {"syntax": "1.2.840.10008.1.2"} if form == "implicit" else {}
    folder = tmp_path / ("in/deep" if form == "nested zip" else "in")
    name = "IM{}" if form == "without ending" else "slice{}.dcm"
    write_series(folder, voxels, each=each, name=name, **syntax)
    source = folder / "slice3.dcm" if form == "slice" else folder
    source = zipped(tmp_path / "in", tmp_path / "x.ZIP") if "zip" in form else source
    scan = read_volume((source,))
    np.testing.assert_allclose(scan.array[0], expected(voxels), rtol=1e-6)
    assert scan.geometry.affine.tolist() == [[0, 0, 0.5, 1], [0, 0.75, 0, 2], [2, 0, 0, 0], [0, 0, 0, 1]]
    assert scan.notes == ()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize("with_meta", [False, True])
def test_old_files_have_no_preamble(tmp_path, write_series, voxels, syntax, with_meta):
    folder = write_series(tmp_path, voxels, name="IM{}", syntax=syntax)
    for path in folder.iterdir():
        content = path.read_bytes()[132:]
        path.write_bytes(content if with_meta else content[8 + len(syntax) + len(syntax) % 2 :])
    assert np.array_equal(read_volume((folder,)).array[0], voxels)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 1, 4, 3)])
def test_a_multi_frame_file_has_its_frames_at_their_places(tmp_path, write_multi_frame, voxels, order, undefined):
    """GDCM reads the frames in the order of the file, with the slope of none or of one of them."""
    places = [(1, 2, 3 + 2 * number) for number in order]
    slopes = [SLOPES[number] for number in order]
    path = write_multi_frame(tmp_path / "many.dcm", voxels[list(order)], places, slopes, undefined=undefined)
    write_multi_frame(tmp_path / "other.dcm", voxels, places, series="1.2.3")  # is read alone, not with this one
    scan = read_volume((path,))
    np.testing.assert_allclose(scan.array[0], expected(voxels), rtol=1e-6)
    assert scan.geometry.affine[:, 3].tolist() == [1, 2, 3, 1]
    assert source_slices(path) == (path,)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_stored_values_of_each_type_are_exact(tmp_path, write_series, kind):
    limits = np.iinfo(kind)
    high = min(limits.max, 2**24)
    values = np.linspace(limits.min if high == limits.max else -high, high, 60).astype(kind).reshape(3, 4, 5)
    write_series(tmp_path / "in", values)
    assert np.array_equal(read_volume((tmp_path / "in",)).array[0], values)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_beside_the_stored_ones_are_ignored(tmp_path, write_series, signed):
    """They may hold an overlay."""
    low = np.arange(24).reshape(2, 3, 4) * 100
    low = low - 1200 if signed else low
    stored = ((low & 0xFFF) | 0x5000).astype(np.uint16)
    write_series(tmp_path / "in", stored, stored=12, high_bit=11, signed=signed)
    assert np.array_equal(read_volume((tmp_path / "in",)).array[0], low)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_keep_values_and_slopes(tmp_path, compressor, own_locale):
    """ITK's writer cannot compress slices of a few pixels."""
    folder, voxels = tmp_path / "in", np.random.default_rng(1).integers(0, 1000, (3, 64, 48)).astype(np.int16)
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.KeepOriginalImageUIDOn()
    for number, plane in enumerate(voxels):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.5, 0.75, 2.0))
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0060": "CT", "0008|0016": "1.2.840.10008.5.1.4.1.1.2"}
        tags |= {
            "0020|0032": f"1\\2\\{2 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0008|0018": f"1.2.3.{number + 1}",
        }
        tags |= {"0028|1052": "-24", "0028|1053": "1"}
        image.SetOrigin((1, 2, 2 * number))
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)
    found = read_volume((folder,)).array[0]
    plain = np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.iterdir())])
    assert np.array_equal(found, plain)
    assert np.array_equal(found, voxels)


def ball(centre, radius, affine, shape):
    """A ball in world coordinates on a grid (D, H, W)."""
    index = np.stack([*np.indices(shape), np.ones(shape)]).reshape(4, -1)
    apart = (affine @ index)[:3] - np.array(centre)[:, None]
    return (np.linalg.norm(apart, axis=0) <= radius).reshape(shape)


@pytest.mark.parametrize(("angle", "multi_frame"), [(15, False), (-20, False), (15, True)])
def test_a_tilted_scan_comes_back_straight_with_a_ball_at_its_place(
    tmp_path, write_series, write_multi_frame, angle, multi_frame
):
    """The gantry's tilt shifts slices along their columns."""
    shape, step = (20, 40, 30), 2.5
    turn = np.radians(angle)
    column, normal = np.array([0, np.cos(turn), -np.sin(turn)]), np.array([0, np.sin(turn), np.cos(turn)])
    tilted = np.eye(4)  # the table moves along z
    tilted[:3] = np.stack([(0, 0, step), 1.5 * column, (1.25, 0, 0), (-10, -20, 5)], axis=1)
    centre = (tilted @ [10, 18, 14, 1])[:3]
    inside = ball(centre, 9, tilted, shape)
    places = [tuple((tilted @ [number, 0, 0, 1])[:3]) for number in range(shape[0])]
    fields = {"orientation": (1.0, 0.0, 0.0, *column), "spacing": (1.5, 1.25)}
    if multi_frame:
        source = write_multi_frame(tmp_path / "in.dcm", inside * np.int16(1000), places, **fields)
    else:
        source = write_series(tmp_path / "in", inside * np.int16(1000), places, **fields)
    scan = read_volume((source,))
    axes = scan.geometry.affine[:3, :3] / scan.geometry.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(axes[:, 0], normal, atol=1e-6)
    assert scan.geometry.spacing[0] == pytest.approx(step * np.cos(turn))
    mask = scan.array[0] > 500
    truth = ball(centre, 9, scan.geometry.affine, scan.geometry.shape)
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert dice > 0.95
    (note,) = scan.notes
    shift = abs(step * np.sin(turn)) * (shape[0] - 1)
    assert f"shifted by {shift:.1f} mm" in note
    slices = read_slices([DicomFile(path) for path in source_slices(source)])
    back = slices.place(mask.astype(np.uint8), scan.geometry)
    assert back.shape == shape
    assert 2 * (back & inside).sum() / (back.sum() + inside.sum()) > 0.95


def test_a_shift_below_half_a_pixel_is_not_resampled(tmp_path, write_series, voxels):
    write_series(tmp_path / "in", voxels, [(1, 2 + 0.05 * number, 2 * number) for number in range(5)])
    scan = read_volume((tmp_path / "in",))
    assert np.array_equal(scan.array[0], voxels)


@pytest.mark.parametrize("form", ["dicom", "nifti", "nrrd"])
def test_35_voxels_of_1_1_mm_have_one_grid_in_each_format(tmp_path, write_series, form):
    array = np.zeros((35, 6, 7), np.int16)
    places = [f"{-120.3 + 1.1 * number:.1f}" for number in range(35)]
    if form == "dicom":
        path = write_series(tmp_path / "in", array, [(1, 2, float(place)) for place in places], spacing=(1.1, 1.1))
    elif form == "nifti":
        path = tmp_path / "a.nii.gz"
        nib.save(nib.Nifti1Image(array.T, np.diag([1.1, 1.1, 1.1, 1])), path)
    else:
        path = tmp_path / "a.nrrd"
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.1,) * 3)
        sitk.WriteImage(image, str(path))
    geometry = to_canonical(read_volume((path,)))[0].geometry
    assert resampled_shape(geometry.shape, geometry.spacing, (1.0, 1.1, 1.1)) == (38, 6, 7)


def test_the_grid_is_known_from_the_first_slices(tmp_path, write_series, write_multi_frame, voxels, monkeypatch):
    array = np.zeros((40, 6, 7), np.int16)
    folder = write_series(tmp_path / "in", array, thickness=2)
    places = [(1, 2, 2 * number) for number in range(40)]
    many = write_multi_frame(tmp_path / "many.dcm", array, places)
    read = []
    monkeypatch.setattr("textdiffseg.imaging.sources.dicom.pixels.read_frames", read.append)
    for path in (folder, folder / "slice7.dcm", zipped(folder, tmp_path / "x.zip"), many):
        geometry = read_geometry(path)
        assert geometry.shape == (40, 6, 7)
        np.testing.assert_allclose(geometry.spacing, (2, 0.75, 0.5))
    assert not read


@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
@pytest.mark.parametrize("thickness", [5, 1, 0.5])
def test_the_grid_from_headers_is_that_of_the_scan_whatever_the_names_and_the_thickness(
    tmp_path, write_series, order, thickness
):
    places = np.arange(40.0)
    if order == "shuffled":
        places = np.random.default_rng(3).permutation(places)
    array = np.zeros((40, 6, 7), np.int16)
    name = "{:03d}" if order == "down" else "a{:03d}"
    places = places if order != "up" else places[::-1]
    folder = write_series(tmp_path / "in", array, places.tolist(), name=name, thickness=thickness)
    for path in (folder, next(folder.iterdir())):
        assert read_geometry(path).matches(read_volume((path,)).geometry, 1e-6)


def test_the_grid_of_a_chosen_series_is_its_own(tmp_path, write_series, voxels):
    write_series(tmp_path, voxels)
    write_series(tmp_path, voxels[:3], series="1.2.4", name="a{}")
    assert read_geometry(tmp_path, "1.2.4").shape == (3, 6, 7)


def test_the_grid_of_a_folder_with_several_series_is_that_of_the_largest(tmp_path, write_series, voxels):
    write_series(tmp_path, voxels)
    write_series(tmp_path, voxels[:3], series="1.2.4", name="a{}")
    assert read_geometry(tmp_path).shape == (5, 6, 7)


def test_the_files_of_a_slice_are_those_of_its_series(tmp_path, write_series, voxels):
    folder = write_series(tmp_path, voxels)
    write_series(tmp_path, voxels, series="1.2.4", name="other{}.dcm")
    names = [f"slice{number}.dcm" for number in (5, 4, 3, 2, 1)]
    assert [path.name for path in files_of(folder / "slice2.dcm")] == names
    assert [path.name for path in source_slices(folder / "slice2.dcm")] == names
    others = [f"other{number}.dcm" for number in (5, 4, 3, 2, 1)]
    for source, series, expected in ((folder, "1.2.3", names), (folder / "slice2.dcm", "1.2.4", others)):
        with slice_files(source, series) as places:
            assert [Path(place.name).name for place in places] == expected
