"""Reading and writing: geometry survives, and what cannot be right is refused by file."""

import locale
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom import source_slices
from textdiffseg.imaging.sources.files import files_of, read_labels, read_volume
from textdiffseg.imaging.sources.scans import list_scans
from textdiffseg.imaging.volume import Geometry
from textdiffseg.imaging.writers.files import write_labels, write_volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def geometry() -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]) * (2.5, 0.75, 0.5)
    affine[:3, 3] = (10, -20, 30.5)
    return Geometry((6, 7, 8), affine)


@pytest.fixture
def array(geometry) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 100, geometry.shape).astype(np.float32)


@pytest.mark.parametrize("ending", ENDINGS)
def test_there_and_back(tmp_path, array, geometry, ending):
    path = tmp_path / f"scan{ending}"
    write_volume(path, array, geometry)
    found = read_volume((path,))
    assert np.array_equal(found.array[0], array)
    assert np.allclose(found.geometry.affine, geometry.affine, atol=1e-4)
    assert not [child for child in tmp_path.iterdir() if child.name.startswith(".")]


def test_axes_are_simpleitks(tmp_path, array, geometry):
    write_volume(tmp_path / "a.nrrd", array, geometry)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetSize() == (8, 7, 6)
    index = (5, 3, 2)  # x, y, z
    assert np.allclose(image.TransformIndexToPhysicalPoint(index), (geometry.affine @ (2, 3, 5, 1))[:3])


@pytest.mark.parametrize(
    ("kind", "read_as"),
    [("uint8", "uint8"), ("int16", "int16"), ("uint16", "uint16"), ("int32", "float32"), ("float64", "float32")],
)
def test_small_integers_keep_their_type(tmp_path, kind, read_as):
    image = sitk.GetImageFromArray(np.arange(60, dtype=kind).reshape(3, 4, 5))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    found = read_volume((tmp_path / "a.nii.gz",)).array
    assert found.dtype == read_as
    assert np.array_equal(found.ravel(), np.arange(60))


@pytest.mark.parametrize(("top", "kind"), [(200, np.uint8), (40000, np.uint16), (100000, np.int32)])
def test_labels_take_the_smallest_type(tmp_path, geometry, top, kind):
    labels = np.zeros(geometry.shape, np.int64)
    labels[2, 3, 4] = top
    write_labels(tmp_path / "a.nii.gz", labels, geometry)
    found = read_labels(tmp_path / "a.nii.gz")
    assert found.array.dtype == kind
    assert np.array_equal(found.array[0], labels)


@pytest.mark.parametrize("ending", [*ENDINGS, ".raw"])
def test_truncated_files_are_refused_by_name(tmp_path, array, geometry, ending):
    scan = tmp_path / ("scan.mhd" if ending == ".raw" else f"scan{ending}")
    write_volume(tmp_path / "scan.mha" if ending == ".raw" else scan, array, geometry)
    if ending == ".raw":
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.mha")), str(scan))
    part = next(path for path in tmp_path.iterdir() if path.suffix in (".zraw", ".raw")) if ending == ".raw" else scan
    part.write_bytes(part.read_bytes()[: part.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=r"scan.*(truncated|cannot be read).*Copy it again"):
        read_volume((scan,))


def test_damaged_and_foreign_files_are_refused(tmp_path, array, geometry):
    write_volume(tmp_path / "flip.nii.gz", array, geometry)
    content = bytearray((tmp_path / "flip.nii.gz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "flip.nii.gz").write_bytes(content)
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "empty.nrrd").touch()
    for name in ("flip.nii.gz", "text.nii", "empty.nrrd", "missing.nii"):
        with pytest.raises(UserError, match=name):
            read_volume((tmp_path / name,))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("ending", ENDINGS[:3])
def test_non_finite_voxels_are_counted(tmp_path, array, geometry, ending, kind):
    array = array.astype(kind)
    array[0, 0, :2], array[-1, -1, -1] = np.nan, np.inf
    path = tmp_path / f"bad{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))  # ITK reads NaN in NIfTI as zero
    with pytest.raises(UserError, match=r"bad\..*: 3 voxels are NaN or infinite"):
        read_volume((path,))


def test_the_last_of_an_odd_number_of_voxels_is_looked_at(tmp_path):
    array = np.zeros((3, 3, 3), np.float32)
    array[-1, -1, -1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "odd.nii"))
    with pytest.raises(UserError, match="1 voxels are NaN"):
        read_volume((tmp_path / "odd.nii",))


def test_numbers_beyond_float32_are_no_voxels(tmp_path, array, geometry):
    array = array.astype(np.float64)
    array[0, 0, 0] = -1e300
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "bad.nrrd"))
    with pytest.raises(UserError, match="1 voxels are NaN or infinite in float32"):
        read_volume((tmp_path / "bad.nrrd",))


def test_a_plain_name_beside_channels_is_not_dropped(tmp_path, array, geometry):
    for name in ("a.nii.gz", "a_0000.nii.gz"):
        write_volume(tmp_path / name, array, geometry)
    with pytest.raises(UserError, match="would both be scan a"):
        list_scans(tmp_path)


def test_two_files_of_one_name_are_not_taken_for_one(tmp_path, array, geometry):
    for name in ("a.nii.gz", "a.nrrd"):
        write_volume(tmp_path / name, array, geometry)
    with pytest.raises(UserError, match=r"a\.nii\.gz and .*a\.nrrd"):
        list_scans(tmp_path)


def test_channels_are_joined_on_one_grid(tmp_path, array, geometry):
    other = Geometry(geometry.shape, geometry.affine * 1.1)
    for name, value, place in (("a", array, geometry), ("b", array + 1, geometry), ("c", array, other)):
        write_volume(tmp_path / f"{name}.nii.gz", value, place)
    joined = read_volume((tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"))
    assert np.array_equal(joined.array, np.stack([array, array + 1]))
    with pytest.raises(UserError, match=r"c\.nii\.gz: its grid .* differs .*a\.nii\.gz"):
        read_volume((tmp_path / "a.nii.gz", tmp_path / "c.nii.gz"))


def test_all_channels_in_one_4d_file(tmp_path):
    channels = [sitk.GetImageFromArray(np.full((4, 5, 6), value, np.float32)) for value in (1, 2, 3)]
    sitk.WriteImage(sitk.JoinSeries(channels), str(tmp_path / "four.nii.gz"))
    sitk.WriteImage(sitk.Compose(channels), str(tmp_path / "vector.nrrd"))
    for name in ("four.nii.gz", "vector.nrrd"):
        found = read_volume((tmp_path / name,))
        assert found.array.shape == (3, 4, 5, 6)
        assert [channel.flat[0] for channel in found.array] == [1, 2, 3]


def test_a_single_slice_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((1, 20, 30), np.float32)), str(tmp_path / "slice.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.float32)), str(tmp_path / "flat.nrrd"))
    with pytest.raises(UserError, match=r"a single slice \(30x20x1 voxels\)"):
        read_volume((tmp_path / "slice.nii.gz",))
    with pytest.raises(UserError, match="expected a 3D image"):
        read_volume((tmp_path / "flat.nrrd",))


def test_labels_must_be_whole_numbers(tmp_path, array, geometry):
    write_volume(tmp_path / "soft.nii.gz", array, geometry)
    with pytest.raises(UserError, match="whole numbers"):
        read_labels(tmp_path / "soft.nii.gz")
    for name, off in (("float", 0), ("scaled", 0.004)):
        write_volume(tmp_path / f"{name}.nii.gz", np.rint(array) - np.float32(off), geometry)
        found = read_labels(tmp_path / f"{name}.nii.gz").array[0]
        assert found.dtype.kind == "i"
        assert np.array_equal(found, np.rint(array))


@pytest.fixture
def own_locale():
    """ITK's DICOM writer (not its reader) leaves the process in the locale C, where text files are read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def write_series(folder: Path, array: np.ndarray, places: Sequence[float]) -> None:
    """One slice at each place, mm along z."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, (plane, z) in enumerate(zip(array, places, strict=True)):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing((0.5, 0.75, 2.0))
        image.SetOrigin((1, 2, z))
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0060": "CT", "0020|0013": str(number)}
        tags |= {"0020|0032": f"1\\2\\{z}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        tags |= {"0008|0018": f"1.2.3.{number + 1}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice{len(array) - number}.dcm"))
        writer.Execute(image)


def test_dicom_folders_are_scans(tmp_path, own_locale):
    array = np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7))
    write_series(tmp_path / "in" / "patient", array, (3, 5.02, 7, 9, 11))  # rounded, as scanners do
    assert list_scans(tmp_path / "in") == {"patient": (tmp_path / "in" / "patient",)}
    assert list(list_scans(tmp_path / "in" / "patient")) == ["patient"]
    found = read_volume((tmp_path / "in" / "patient",))
    assert np.array_equal(found.array[0], array)
    assert np.allclose(found.geometry.spacing, (2, 0.75, 0.5))
    slices = source_slices(tmp_path / "in" / "patient")
    assert [path.name for path in slices] == [f"slice{number}.dcm" for number in (5, 4, 3, 2, 1)]


def test_scans_are_found_by_both_ways_of_naming(tmp_path):
    names = ("a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz", "c_2021.nrrd", ".hidden.nii.gz", "notes.txt")
    for name in names:
        (tmp_path / name).touch()
    found = {case: [path.name for path in paths] for case, paths in list_scans(tmp_path).items()}
    assert found == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"], "b": ["b.nii.gz"], "c_2021": ["c_2021.nrrd"]}
    assert list_scans(tmp_path / "b.nii.gz") == {"b": (tmp_path / "b.nii.gz",)}


def test_missing_files_are_reported(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list_scans(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no scan"):
        list_scans(tmp_path)
    for name in ("a_0000.nii", "a_0002.nii"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="a_0001"):
        list_scans(tmp_path)


def test_a_header_brings_the_file_of_its_voxels_along(tmp_path, array, geometry):
    header = "NDims = 3\nDimSize = 1 1 1\nElementType = MET_CHAR\nElementDataFile = "
    (tmp_path / "a.mhd").write_text(f"{header}a data.raw\n")
    assert files_of(tmp_path / "a.mhd") == (tmp_path / "a.mhd",), "which is reported when it is read"
    (tmp_path / "a data.raw").write_bytes(b"0")
    assert files_of(tmp_path / "a.mhd") == (tmp_path / "a.mhd", tmp_path / "a data.raw")
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "d.nhdr"))
    assert len(files_of(tmp_path / "d.nhdr")) == 2
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "e.hdr"))
    assert files_of(tmp_path / "e.hdr") == (tmp_path / "e.hdr", tmp_path / "e.img")
    assert files_of(tmp_path / "e.img") == files_of(tmp_path / "e.hdr")
    (tmp_path / "b.mhd").write_text(f"{header}LOCAL\n0")
    for name in ("b.mhd", "c.nii.gz"):
        assert files_of(tmp_path / name) == (tmp_path / name,)


@pytest.mark.parametrize("value", [1e30, 2**40])
def test_label_values_beyond_32_bits_are_refused(tmp_path, geometry, value):
    write_volume(tmp_path / "a.nii.gz", np.full(geometry.shape, value, np.float64), geometry)
    with pytest.raises(UserError, match="expected label values of at most 2147483647"):
        read_labels(tmp_path / "a.nii.gz")


def test_the_limit_of_label_values_holds_in_single_precision(tmp_path, geometry):
    """2^31 - 1 is not a number of float32. It would be rounded to 2^31."""
    for value in (2**31 - 128, 2**31):
        write_volume(tmp_path / f"{value}.nii.gz", np.full(geometry.shape, value, np.float32), geometry)
    assert read_labels(tmp_path / f"{2**31 - 128}.nii.gz").array.max() == 2**31 - 128
    with pytest.raises(UserError, match="found 2147483648 to 2147483648"):
        read_labels(tmp_path / f"{2**31}.nii.gz")


def test_a_label_map_with_infinite_values_is_refused_without_a_warning(tmp_path, array, geometry, recwarn):
    write_volume(tmp_path / "soft.nii.gz", np.where(array == array.max(), np.inf, 0).astype(np.float32), geometry)
    with pytest.raises(UserError, match="whole numbers"):
        read_labels(tmp_path / "soft.nii.gz")
    assert not [one for one in recwarn if one.category is RuntimeWarning]
