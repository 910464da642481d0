"""NIfTI: which form places a scan, what is refused, and that no more is read than the header declares."""

import gzip
import struct
import tempfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.forms import DISAGREE, GUESSED, NO_QFORM, NO_SFORM, OTHER_SPACING
from textdiffseg.imaging.grids import STRAIGHTENED
from textdiffseg.imaging.sources.files import read_geometry, read_labels, read_volume
from textdiffseg.imaging.sources.objects import volume_of
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.tasks.manifest import hash_inputs

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 500, (8, 7, 6)).astype(np.int16)


def affine_of(directions=TURN, spacing=(0.5, 0.75, 2.5), origin=(10, -20, 30)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, origin
    return affine


def save(path: Path, voxels, sform=None, qform=None, kind=nib.Nifti1Image, **fields) -> Path:
    """A file with these forms (affine, code) and header fields."""
    image = kind(voxels, None)
    image.header["xyzt_units"] = 2
    for set_form, form in ((image.header.set_qform, qform), (image.header.set_sform, sform)):
        set_form(*(form or (None, 0)))
    if not qform and sform:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[0][:3, :3], axis=0)
    for field, value in fields.items():
        image.header[field] = value
    image.to_filename(path)
    return path


def expected(affine: np.ndarray) -> np.ndarray:
    """As the reader has it: LPS, index order (k, j, i)."""
    return (LPS @ affine)[:, [2, 1, 0, 3]]


def test_the_sform_comes_first_and_both_forms_are_kept_in_a_mask(tmp_path, voxels):
    sform, qform = affine_of(), affine_of(origin=(10, 20, 30))
    path = save(tmp_path / "a.nii.gz", voxels, (sform, 2), (qform, 1))
    found = read_volume((path,))
    assert np.array_equal(found.array[0], voxels.T)
    assert np.allclose(found.geometry.affine, expected(sform), atol=1e-5)
    assert np.array_equal(read_geometry(path).affine, found.geometry.affine)
    assert found.notes == (DISAGREE,)
    write_labels(tmp_path / "mask.nii.gz", np.ones(found.geometry.shape, int), found.geometry)
    given, mask = nib.load(path).header, nib.load(tmp_path / "mask.nii.gz").header
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(given[field], mask[field]), field
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units"):
        assert np.array_equal(
            given[field][..., :4] if field == "pixdim" else given[field],
            mask[field][..., :4] if field == "pixdim" else mask[field],
        ), field


@pytest.mark.parametrize(
    ("forms", "chosen", "notes"),
    [
        (("sform",), "sform", ()),
        (("qform",), "qform", ()),
        (("sform", "qform"), "sform", ()),
    ],
)
def test_one_form_is_enough(tmp_path, voxels, forms, chosen, notes):
    path = save(tmp_path / "a.nii", voxels, **{form: (affine_of(), 1) for form in forms})
    found = read_volume((path,))
    assert np.allclose(found.geometry.affine, expected(affine_of()), atol=1e-5)
    assert np.allclose(found.geometry.spacing, (2.5, 0.75, 0.5), rtol=0, atol=1e-12), "pixdim is not rounded"
    assert found.notes == notes


def test_a_form_that_cannot_be_used_gives_way_to_the_other_with_a_note(tmp_path, voxels):
    good = (affine_of(), 1)
    zero = save(tmp_path / "a.nii", voxels, good, good, srow_x=0, srow_y=0, srow_z=0)
    assert read_volume((zero,)).notes == (NO_SFORM,)
    for name, fields in (("b", {"quatern_b": 7}), ("c", {"pixdim": (1, 0, np.nan, 1, 1, 1, 1, 1)})):
        found = read_volume((save(tmp_path / f"{name}.nii", voxels, good, good, **fields),))
        assert found.notes == (NO_QFORM,)
        assert np.allclose(found.geometry.affine, expected(affine_of()), atol=1e-5)
        write_labels(tmp_path / "mask.nii", np.ones(found.geometry.shape, int), found.geometry)
        assert read_labels(tmp_path / "mask.nii").geometry.matches(found.geometry, 1e-5)
    both = save(tmp_path / "d.nii", voxels, good, good, srow_x=0, srow_y=0, srow_z=0, quatern_b=7)
    with pytest.raises(UserError, match="neither the sform nor the qform"):
        read_volume((both,))


def test_without_forms_the_orientation_is_a_noted_guess(tmp_path, voxels):
    path = save(tmp_path / "a.nii", voxels, pixdim=(1, 2, 3, 4, 1, 1, 1, 1))
    found = read_volume((path,))
    assert found.notes == (GUESSED,)
    assert found.geometry.spacing == (4, 3, 2)
    assert np.allclose(found.geometry.affine, expected(nib.load(path).affine))


@pytest.mark.parametrize("step", [0.0, np.nan, -1.0, np.inf])
def test_without_forms_and_spacing_a_scan_is_refused(tmp_path, voxels, step):
    path = save(tmp_path / "a.nii", voxels, pixdim=(1, 1, step, 1, 1, 1, 1, 1))
    with pytest.raises(UserError, match="no spacing"):
        read_volume((path,))
    assert read_geometry(path) is None


def test_slight_shear_is_straightened_around_the_middle_and_more_is_refused(tmp_path, voxels):
    for amount, slight in ((1e-3, True), (8e-3, True), (0.02, False)):
        shear = affine_of(np.eye(3), (1, 1, 1))
        shear[0, 1] = amount
        path = save(tmp_path / "a.nii.gz", voxels, (shear, 1))
        if not slight:
            with pytest.raises(UserError, match=r"right angles by 2\.0%.*resample_to_output"):
                read_volume((path,))
            continue
        found = read_volume((path,))
        axes = found.geometry.affine[:3, :3] / found.geometry.spacing
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9)
        middle = np.array([(size - 1) / 2 for size in found.geometry.shape] + [1])
        assert np.allclose(found.geometry.affine @ middle, expected(shear) @ middle, atol=1e-6)
        assert np.allclose(found.geometry.affine, expected(shear), atol=amount * 4)
        assert found.notes == (STRAIGHTENED,)
        write_labels(tmp_path / "mask.nii.gz", np.ones(found.geometry.shape, int), found.geometry)
        assert np.array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(path).affine), "the scan's own"


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000), (3, 0.001)])
def test_metres_and_micrometres_become_millimetres(tmp_path, voxels, unit, factor):
    path = save(tmp_path / "a.nii", voxels, (affine_of(np.eye(3) / factor), 1), xyzt_units=unit)
    assert np.allclose(read_volume((path,)).geometry.affine[:3, :3], expected(affine_of(np.eye(3)))[:3, :3], atol=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_spacings_that_cannot_be_millimetres_are_refused(tmp_path, voxels, factor, ending):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([factor] * 3)
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    with pytest.raises(UserError, match=r"a\..*its spacing is .* mm, expected 0.005 to 100 mm"):
        read_volume((tmp_path / f"a{ending}",))


@pytest.mark.parametrize("step", [0.01, 0.006])
def test_micro_ct_is_read(tmp_path, voxels, step):
    """A header stores the spacing in single precision: 0.01 becomes 0.00999999978."""
    path = save(tmp_path / "a.nii", voxels, (affine_of(np.eye(3), (step, step, step)), 1))
    assert np.allclose(read_volume((path,)).geometry.spacing, step)


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
def test_second_version_and_pairs_are_read(tmp_path, voxels, kind):
    name = "a.nii.gz" if kind is nib.Nifti2Image else "a.img"
    save(tmp_path / name, voxels, (affine_of(), 1), kind=kind)
    for one in [name] if name == "a.nii.gz" else ["a.img", "a.hdr"]:
        found = read_volume((tmp_path / one,))
        assert np.array_equal(found.array[0], voxels.T)
        assert np.allclose(found.geometry.affine, expected(affine_of()), atol=1e-5)


def test_compression_is_recognised_by_the_content(tmp_path, voxels):
    plain = save(tmp_path / "a.nii", voxels, (affine_of(), 1)).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain))
    halves = gzip.compress(plain[:500]) + gzip.compress(plain[500:]) + bytes(100)
    (tmp_path / "d.NII.GZ").write_bytes(halves)
    for name in ("b.nii.gz", "c.nii", "d.NII.GZ"):
        assert np.array_equal(read_volume((tmp_path / name,)).array[0], voxels.T)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("slope", [1.0, 0.37])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_values_are_those_that_itk_reads(tmp_path, kind, slope, order):
    voxels = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(np.dtype(kind).newbyteorder(order))
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(voxels.dtype)
    image = nib.Nifti1Image(voxels, affine_of(), header)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = struct.pack(f"{order}2f", slope, 3.25)
    path.write_bytes(gzip.compress(content))
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(read_volume((path,)).array[0], by_itk.astype(np.float32))


def test_channels_lie_along_the_fourth_or_fifth_axis(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    for name, array in (("four", voxels), ("five", voxels[..., None, :]), ("six", voxels[..., None])):
        found = read_volume((save(tmp_path / f"{name}.nii.gz", array, (affine_of(), 1)),))
        assert np.array_equal(found.array, voxels.transpose(3, 2, 1, 0))
    with pytest.raises(UserError, match="expected a 3D image, found 5 dimensions"):
        read_volume((save(tmp_path / "a.nii", np.zeros((4, 4, 4, 2, 2), np.uint8), (affine_of(), 1)),))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (np.complex64, "complex numbers"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "colours"),
    ],
)
def test_complex_numbers_and_colours_are_refused(tmp_path, kind, words):
    path = save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), kind), (affine_of(), 1))
    with pytest.raises(UserError, match=rf"a\.nii\.gz: its voxels are {words}"):
        read_volume((path,))


@pytest.mark.parametrize(
    "fields",
    [
        {"datatype": 4242},
        {"dim": (3, 30000, 30000, 2, 1, 1, 1, 1)},
        {"dim": (3, -4, 5, 6, 1, 1, 1, 1)},
        {"dim": (9, 4, 5, 6, 1, 1, 1, 1)},
        {"dim": (0, 4, 5, 6, 1, 1, 1, 1)},
        {"vox_offset": np.inf},
        {"vox_offset": 1e30},
        {"vox_offset": -1},
        {"vox_offset": 30},
        {"vox_offset": 350},  # the four bytes after the header announce extensions
        {"vox_offset": np.nan},
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_headers_that_cannot_be_right_are_one_line(tmp_path, voxels, fields, ending):
    plain = save(tmp_path / "a.nii", voxels, (affine_of(), 1)).read_bytes()
    header = nib.Nifti1Header(plain[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    content = header.binaryblock + plain[348:]
    path = tmp_path / f"b{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(UserError, match=rf"b{ending}"):
        read_volume((path,))


def test_bits_that_contradict_the_type_are_not_believed(tmp_path, voxels):
    path = save(tmp_path / "a.nii", voxels, (affine_of(), 1))
    content = bytearray(path.read_bytes())
    content[72:74] = struct.pack("<h", -8)
    path.write_bytes(content)
    assert np.array_equal(read_volume((path,)).array[0], voxels.T)


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path, voxels, monkeypatch):
    header = nib.load(save(tmp_path / "a.nii", voxels, (affine_of(), 1))).header
    header["dim"][1:4] = (30000, 30000, 2)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(60000)))
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(UserError, match=r"b\.nii\.gz is truncated or damaged .*declares 3600000000 bytes"):
        read_volume((tmp_path / "b.nii.gz",))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_with_more_slices_than_its_header_declares_is_refused(tmp_path, voxels, ending):
    plain = save(tmp_path / "a.nii", voxels, (affine_of(), 1)).read_bytes()
    header = nib.Nifti1Header(plain[:348], check=False)
    header["dim"][3] //= 2
    content = header.binaryblock + plain[348:]
    path = tmp_path / f"b{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(UserError, match=r"bytes with values follow the voxels that its header declares"):
        read_volume((path,))


def test_what_follows_the_voxels_is_not_unpacked(tmp_path, voxels, monkeypatch):
    plain = save(tmp_path / "a.nii", voxels, (affine_of(), 1)).read_bytes()
    (tmp_path / "some.nii.gz").write_bytes(gzip.compress(plain + bytes(1000)))
    assert np.array_equal(read_volume((tmp_path / "some.nii.gz",)).array[0], voxels.T)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: pytest.fail("a file was unpacked"))
    (tmp_path / "much.nii.gz").write_bytes(gzip.compress(plain + bytes(40 << 20)))
    with pytest.raises(UserError, match=r"much\.nii\.gz is truncated or damaged \(more than 16 MB follow"):
        read_volume((tmp_path / "much.nii.gz",))


def test_the_checksum_is_compared(tmp_path, voxels):
    plain = save(tmp_path / "a.nii", voxels, (affine_of(), 1)).read_bytes()
    stored = bytearray(gzip.compress(plain, 0))  # stored as it is: only the checksum can show a change
    stored[-100] ^= 1
    (tmp_path / "b.nii.gz").write_bytes(stored)
    with pytest.raises(UserError, match=r"b\.nii\.gz is truncated or damaged"):
        read_volume((tmp_path / "b.nii.gz",))
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(plain) + b"something else")
    with pytest.raises(UserError, match="other bytes follow"):
        read_volume((tmp_path / "c.nii.gz",))


def test_each_byte_is_decompressed_once(tmp_path, voxels, monkeypatch):
    path = save(tmp_path / "a.nii.gz", voxels, (affine_of(), 1))
    unpackers, make = [], zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda *args: unpackers.append(1) or make(*args))
    read_volume((path,))
    assert len(unpackers) == 1


def test_other_formats_under_the_name_are_named(tmp_path, voxels):
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.nii is not a NIfTI file but NRRD"):
        read_volume((tmp_path / "a.nii",))
    nib.AnalyzeImage(voxels, np.eye(4)).to_filename(tmp_path / "b.img")
    with pytest.raises(UserError, match="an Analyze image, in which left and right are not defined"):
        read_volume((tmp_path / "b.img",))
    (tmp_path / "c.img").touch()
    with pytest.raises(UserError, match=r"c\.img: its header c\.hdr is missing"):
        read_volume((tmp_path / "c.img",))


def test_images_of_nibabel_follow_the_same_rules(tmp_path, voxels):
    image = nib.load(save(tmp_path / "a.nii.gz", voxels, (affine_of(), 2), (affine_of(origin=(0, 0, 0)), 1)))
    found = volume_of(image)
    assert found.notes == (DISAGREE,)
    assert np.allclose(found.geometry.affine, LPS @ affine_of(), atol=1e-5)
    shear = np.eye(4)
    shear[0, 1] = 0.005
    assert volume_of(nib.Nifti1Image(voxels, shear)).notes == (STRAIGHTENED,)


def test_what_the_system_does_not_read_is_one_line(tmp_path, voxels, monkeypatch):
    path = save(tmp_path / "a.nii.gz", voxels, (affine_of(), 1))
    image = nib.load(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match="the nibabel image: its voxels cannot be read"):
        volume_of(image)

    def fail(*_):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UserError, match=r"a\.nii\.gz cannot be read \(Input/output error\)"):
        read_volume((path,))
    with pytest.raises(UserError, match=r"a\.nii\.gz cannot be read \(Input/output error\)"):
        hash_inputs((path,))


@pytest.mark.parametrize(("sform", "qform", "notes"), [(99, 1, (NO_SFORM,)), (1, -7, (NO_QFORM,)), (6, 9, (GUESSED,))])
def test_a_form_with_a_code_that_the_format_lacks_is_not_used(tmp_path, voxels, sform, qform, notes):
    path = save(tmp_path / "a.nii", voxels, (affine_of(), 1), (affine_of(), 1), sform_code=sform, qform_code=qform)
    volume = read_volume((path,))
    assert volume.notes == notes
    assert np.allclose(volume.geometry.affine, LPS @ nib.load(path).affine[:, [2, 1, 0, 3]], atol=1e-5), "as nibabel"


def test_a_note_reports_spacings_that_contradict_the_only_form(tmp_path, voxels):
    path = save(tmp_path / "a.nii", voxels, (affine_of(), 1), pixdim=[1, 9, 9, 9, 1, 1, 1, 1])
    assert read_volume((path,)).notes == (OTHER_SPACING,)
    assert read_volume((save(tmp_path / "b.nii", voxels, (affine_of(), 1)),)).notes == ()


def test_the_grid_of_a_file_that_cannot_hold_it_is_not_known(tmp_path, voxels):
    path = save(tmp_path / "a.nii", voxels, (affine_of(), 1))
    assert read_geometry(path) is not None
    content = bytearray(path.read_bytes())
    content[40:48] = struct.pack("<4h", 3, 30000, 30000, 2)
    path.write_bytes(content)
    assert read_geometry(path) is None, "the memory that it would take is not reported"


def test_a_scale_beyond_float32_is_refused_without_a_warning(tmp_path, voxels, recwarn):
    path = save(tmp_path / "a.nii", voxels, (affine_of(), 1))
    content = bytearray(path.read_bytes())
    content[112:116] = struct.pack("<f", 1e38)
    path.write_bytes(content)
    with pytest.raises(UserError, match="infinite in float32"):
        read_volume((path,))
    assert not recwarn.list
