"""DICOM that would give a wrong scan is refused in one line, which names what is wrong and where."""

import re
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom.decompress import CannotDecompress, Decompressor
from textdiffseg.imaging.sources.files import read_geometry, read_volume
from textdiffseg.imaging.sources.scans import list_scans

DECOMPRESS = """
import resource, sys
from pathlib import Path
from textdiffseg.imaging.sources.dicom.decompress import CannotDecompress, Decompressor

content, huge = (Path(path).read_bytes() for path in sys.argv[1:])
with Decompressor() as decompressor:
    assert decompressor.values(content, 6144).size == 3072
    try:
        decompressor.values(huge, 6144)
    except CannotDecompress as error:
        print(error)
    assert decompressor.values(content, 6144).size == 3072
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
TURNED = {"orientation": (0, 1, 0, 0, 0, -1)}


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((0, 2, 4, 8, 10), ("not evenly spaced", "slice3.dcm and slice2.dcm are 4 mm apart")),
        ((0, 2, 4, 0, 2), ("2 of its 5 slices have the position of another one",)),
        ((0, 2, 4, 4, 6), ("1 of its 5 slices", "slice2.dcm and slice3.dcm")),
        ((3, 3, 3, 3, 3), ("all at one position",)),
        ((0, 1, 2, 5, 8), ("not evenly spaced",)),
        (((0, 0, 0), (0, 0, 2), (0, 5, 4), (0, 0, 6), (0, 0, 8)), ("shifted sideways",)),
    ],
)
def test_slices_that_are_not_a_regular_stack(refused, tmp_path, write_series, voxels, places, words):
    refused(write_series(tmp_path / "in", voxels, places), "1.2.3", *words)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (TURNED, ("different orientations", "slice1.dcm and", "slice3.dcm", "own folder")),
        ({"orientation": (1, 0, 0, 0, 0.999, 0.045)}, ("different orientations",)),
        ({"spacing": (0.75, 0.6)}, ("different pixel spacings",)),
        ({"frame_of_reference": "1.2.8"}, ("different frames of reference", "slice3.dcm")),
        ({"patient_id": "other"}, ("belong to different patients", "slice3.dcm")),
        ({"samples": 3}, ("colour pictures", "slice3.dcm")),
        ({"photometric": "PALETTE COLOR"}, ("colour pictures", "slice3.dcm")),
        ({"lookup_table": [{}]}, ("lookup table", "slice3.dcm")),
        ({"position": None}, ("slice3.dcm", "ImagePositionPatient is missing")),
        ({"orientation": None}, ("slice3.dcm", "ImageOrientationPatient is missing")),
        ({"position": (1, 2, "nan")}, ("slice3.dcm", "ImagePositionPatient is '1\\\\2\\\\nan'")),
        ({"position": (1, 2)}, ("slice3.dcm", "ImagePositionPatient")),
        ({"slope": 0}, ("slice3.dcm", "RescaleSlope is '0'")),
        ({"slope": "nan"}, ("slice3.dcm", "RescaleSlope")),
        ({"slope": "1_0"}, ("slice3.dcm", "RescaleSlope is '1_0'")),
        ({"intercept": "-1_024"}, ("slice3.dcm", "RescaleIntercept is '-1_024'")),
        ({"position": ("1", "2", "1_0")}, ("slice3.dcm", "ImagePositionPatient")),
        ({"slope": 1, "intercept": -1024}, ("4 of its 5 slices have no RescaleIntercept (", "slice1.dcm")),
        ({"allocated": 12}, ("slice3.dcm", "BitsAllocated")),
        ({"rows": 7}, ("different sizes, 7x6 and 7x7", "slice3.dcm")),
    ],
)
def test_a_slice_that_differs_from_the_others(refused, tmp_path, write_series, voxels, odd, words):
    refused(write_series(tmp_path / "in", voxels, each=[{}, {}, odd, {}, {}]), *words)


def test_phases_in_one_multi_frame_file(refused, tmp_path, write_multi_frame, voxels):
    path = write_multi_frame(tmp_path / "a.dcm", voxels[:4], [(1, 2, place) for place in (0, 2, 0, 2)])
    refused(path, "2 of its 4 slices", "a.dcm, frame 1 and a.dcm, frame 3", "Split the file into one per phase")


def test_alternating_orientations(refused, tmp_path, write_series, voxels):
    refused(write_series(tmp_path / "in", voxels, each=[{}, TURNED, {}, TURNED, {}]), "different orientations")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"spacing": None}, ("PixelSpacing is missing",)),
        ({"spacing": (0, 0.5)}, ("PixelSpacing is '0\\\\0.5'",)),
        ({"spacing": (1000, 1000)}, ("spacing is 2/1000/1000 mm",)),
        ({"orientation": (1, 0, 0, 1, 0, 0)}, ("ImageOrientationPatient",)),
        ({"orientation": (0, 0, 0, 0, 1, 0)}, ("ImageOrientationPatient",)),
        ({"rows": 60000, "columns": 60000}, ("7200000000 bytes of pixels are declared, 84 are stored",)),
        ({"rows": 7}, ("98 bytes of pixels are declared, 84 are stored",)),
        ({"columns": 5}, ("60 bytes of pixels are declared, 84 are stored",)),
        ({"intercept": "1e39"}, ("infinite",)),
        ({"signed": None}, ("PixelRepresentation is missing",)),
        ({"frames": "-1"}, ("NumberOfFrames",)),
        ({"frames": 1000000}, ("NumberOfFrames",)),
        ({"syntax": "1.2.840.10008.1.2.4.201"}, ("compressed with 1.2.840.10008.1.2.4.201", "Export it uncompressed")),
        ({"syntax": "1.2.840.10008.1.2.1.99"}, ("header is compressed",)),
        ({"syntax": "1.2.840.10008.1.2.4.90"}, ("not stored in fragments",)),
    ],
)
def test_a_series_that_cannot_be_read(refused, tmp_path, write_series, voxels, fields, words):
    refused(write_series(tmp_path / "in", voxels, **fields), *words)


def test_a_single_slice(refused, tmp_path, write_series, voxels):
    folder = write_series(tmp_path / "in", voxels[:1])
    refused(folder, "a single slice (7x6x1 voxels)")
    assert read_geometry(folder) is None


@pytest.mark.parametrize("keep", [131, 140, 200, 500, -84, -1])
def test_a_truncated_slice_is_named(refused, tmp_path, write_series, voxels, keep):
    folder = write_series(tmp_path / "in", voxels)
    path = folder / "slice2.dcm"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "slice2.dcm is truncated or damaged", "Copy it again")


def test_any_truncation_and_any_changed_byte_gives_a_scan_or_one_line(tmp_path, write_multi_frame, voxels):
    places = [(1, 2, 2 * number) for number in range(5)]
    path = write_multi_frame(tmp_path / "many.dcm", voxels, places, undefined=True)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    header = len(content) - voxels.nbytes
    for place in range(0, header, 9):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        for damaged in (content[:place], changed):
            path.write_bytes(damaged)
            try:
                read_volume((path,))
            except UserError as error:
                (line,) = error.lines
                assert path.name in line, line
            read_geometry(path)


def test_sequences_that_are_nested_too_deep(refused, tmp_path, write_dicom, voxels):
    deep: dict = {}
    for _ in range(50):
        deep = {"shared_groups": [deep]}
    write_dicom(tmp_path / "a.dcm", voxels[0], position=(0, 0, 0), **deep)
    refused(tmp_path / "a.dcm", "nested more than 16 deep")


def test_files_that_are_not_slices(refused, tmp_path, write_series, write_dicom, voxels):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds no DICOM slices")
    (tmp_path / "text.dcm").write_text("a text")
    refused(tmp_path / "text.dcm", "text.dcm is truncated or damaged")
    segmentation = "1.2.840.10008.5.1.4.1.1.66.4"
    write_dicom(tmp_path / "seg.dcm", voxels, sop_class=segmentation, frames=5)
    refused(tmp_path / "seg.dcm", "without slices of a scan")
    folder = write_series(tmp_path / "in", voxels)
    write_dicom(folder / "seg.dcm", voxels, sop_class=segmentation, frames=5)
    write_dicom(folder / "report", voxels[0], sop_class="1.2.840.10008.5.1.4.1.1.88.11", pixels=None, rows=None)
    assert np.array_equal(read_volume((folder,)).array[0], voxels)


def test_localizers_alone(refused, tmp_path, write_series, voxels):
    folder = write_series(tmp_path / "in", voxels, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    refused(folder, "localizers only")


def archive_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_without_slices(refused, tmp_path):
    refused(archive_of(tmp_path / "a.zip", {"a.nii.gz": b"x", "b.txt": b"y"}), "holds no DICOM slices")


def test_a_damaged_zip(refused, tmp_path, write_series, voxels):
    folder = write_series(tmp_path / "in", np.random.default_rng(0).integers(-99, 99, (5, 30, 40)).astype(np.int16))
    whole = archive_of(tmp_path / "a.zip", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    refused(whole, "a.zip is truncated or damaged")
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    whole.write_bytes(changed)
    refused(whole, "truncated or damaged")


def bad_name(content):
    """The first name flagged as UTF-8, which it is not."""
    changed, start = bytearray(content), content.index(b"PK\x01\x02")
    changed[start + 9] |= 8
    changed[start + 46] = 0xFF
    return bytes(changed)


def bad_place(content):
    """The first member so far behind the end that no file reaches there: its place is in the extra field (ZIP64)."""
    archive = re.search(rb"PK\x01\x02.{42}(slice1.dcm)", content, re.DOTALL)
    extra = b"\x01\0\x08\0" + b"\xff" * 8
    head = archive[0][:30] + b"\x0c\0" + archive[0][32:42] + b"\xff" * 4 + archive[1] + extra
    end = content.rindex(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(extra)
    changed = content[: archive.start()] + head + content[archive.end() : end + 12] + size.to_bytes(4, "little")
    return changed + content[end + 16 :]


def bad_stream(content):
    """The bytes of the first member, whatever compressed them."""
    start = content.index(b"slice1.dcm") + len(b"slice1.dcm") + 4
    return content[:start] + b"\xff" * 40 + content[start + 40 :]


FAULTS = [
    *((bad_name, zipfile.ZIP_STORED), (bad_place, zipfile.ZIP_STORED), (bad_stream, zipfile.ZIP_DEFLATED)),
    *((bad_stream, zipfile.ZIP_LZMA), (bad_stream, zipfile.ZIP_BZIP2)),
]


@pytest.mark.parametrize(("damage", "method"), FAULTS)
def test_a_zip_that_cannot_be_decoded_does_not_stop_the_others(tmp_path, write_series, voxels, damage, method):
    folder = write_series(tmp_path / "in" / "good", voxels)
    path = tmp_path / "in" / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for one in sorted(folder.iterdir()):
            archive.write(one, one.name)
    path.write_bytes(damage(path.read_bytes()))
    assert list_scans(tmp_path / "in") == {"a": (path,), "good": (folder,)}
    with pytest.raises(UserError, match=r"a\.zip.* is truncated or damaged"):
        read_volume((path,))


def test_a_zip_with_a_password(refused, tmp_path, write_series, voxels):
    folder = write_series(tmp_path / "in", voxels)
    path = archive_of(tmp_path / "a.zip", {path.name: path.read_bytes() for path in folder.iterdir()})
    content = path.read_bytes().replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\1\0")
    path.write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"))
    refused(path, "protected by a password")


def test_a_zip_writes_nothing(tmp_path, write_series, voxels, monkeypatch):
    """Members may have any name, as ../../x. Data on patients do not stay in temporary folders."""
    folder = write_series(tmp_path / "in", voxels)
    names = {f"../../x{path.name}": path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "sub").mkdir()
    path = archive_of(tmp_path / "sub" / "a.zip", names)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert np.array_equal(read_volume((path,)).array[0], voxels)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scan_that_does_not_fit_into_memory_is_refused_before_it_is_read(
    refused, tmp_path, write_series, voxels, monkeypatch
):
    folder = write_series(tmp_path / "in", voxels)
    monkeypatch.setattr("textdiffseg.imaging.sources.dicom.pixels.free_memory", lambda: 100.0)
    refused(folder, "GB of memory")


def test_bytes_behind_the_pixels_are_not_unpacked_without_a_limit(refused, tmp_path, write_series, voxels, monkeypatch):
    """Zeros shrink to 1/1000 in a zip."""
    folder = write_series(tmp_path / "in", voxels)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + bytes(2000))
    archive = archive_of(tmp_path / "a.zip", {path.name: path.read_bytes() for path in folder.iterdir()})
    assert np.array_equal(read_volume((archive,)).array[0], voxels)
    monkeypatch.setattr("textdiffseg.imaging.sources.dicom.pixels.MAX_TRAILING_BYTES", 1000)
    refused(archive, "pixels should have 84 bytes")


def test_a_small_zip_of_a_large_scan_takes_no_memory(refused, tmp_path, write_dicom):
    """Its slices declare 20000x20000 voxels, which a zip of zeros can hold in 1/1000 of the size."""
    content = {}
    for number in range(2):
        write_dicom(tmp_path / "one", np.zeros((2, 2), np.int16), position=(0, 0, number), rows=20000, columns=20000)
        content[f"{number}.dcm"] = (tmp_path / "one").read_bytes()
    refused(archive_of(tmp_path / "a.zip", content), "bytes of pixels are declared, 8 are stored")


def test_a_decoder_that_crashes_gives_one_line_and_is_started_anew():
    """GDCM crashes on some damaged pixels."""
    with Decompressor() as decompressor:
        for _ in range(2):
            with pytest.raises(CannotDecompress, match="GDCM"):
                decompressor.values(b"not DICOM", 9)
            decompressor._process.kill()
            with pytest.raises(CannotDecompress, match="decoder crashed"):
                decompressor.values(b"x" * 1_000_000, 9)


def test_damaged_compressed_pixels(refused, tmp_path, write_series, voxels):
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    ends = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for pixels, words in (
        (item + ends, "cannot be decompressed"),
        (item, "ends too early"),
        (item + struct.pack("<HHI", 0xFFFE, 0xE000, 1000) + ends, "ends too early"),
    ):
        folder = write_series(tmp_path / words, voxels, fragments=pixels, syntax="1.2.840.10008.1.2.4.90")
        refused(folder, "slice5.dcm is truncated or damaged", words)


def test_a_compressed_picture_larger_than_its_header_declares_is_not_unpacked(tmp_path):
    """A few bytes of JPEG 2000 may declare a picture that takes all memory."""
    path = tmp_path / "a.dcm"
    image = sitk.GetImageFromArray(np.zeros((1, 64, 48), np.int16))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(image)
    content = path.read_bytes()
    sizes = content.index(b"\xff\x51\x00") + 6  # of the picture, then of its tiles; each with an offset
    large = struct.pack(">2I", 20_000, 20_000)
    huge = content[:sizes] + large + bytes(8) + large + content[sizes + 24 :]
    (tmp_path / "huge.dcm").write_bytes(huge)
    # In a small process of its own, as the peak of a child is at least the memory of its parent when it starts.
    command = [sys.executable, "-c", DECOMPRESS, path, tmp_path / "huge.dcm"]
    reason, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert re.search(r"needs much more memory|GDCM|crashed", reason)
    assert int(peak) <= 1_500_000, "kB"


def test_a_compressed_report_beside_the_slices_is_left_out(tmp_path, write_series, voxels):
    """The first part of a DICOM file is never compressed. Here it says that the file is a report."""
    folder = write_series(tmp_path / "in", voxels)
    sop_class, syntax = b"1.2.840.10008.5.1.4.1.1.88.11\0", b"1.2.840.10008.1.2.1.99"
    meta = b"".join(
        struct.pack("<HH2sH", 2, tag, b"UI", len(value)) + value for tag, value in ((2, sop_class), (16, syntax))
    )
    (folder / "report.dcm").write_bytes(bytes(128) + b"DICM" + meta + b"compressed")
    assert read_volume((folder,)).array.shape[1:] == voxels.shape
