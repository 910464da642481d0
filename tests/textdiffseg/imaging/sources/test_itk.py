"""NRRD and MetaImage: values as ITK reads them, and headers that are refused before ITK sees them."""

import gzip
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.grids import STRAIGHTENED
from textdiffseg.imaging.sources.files import read_geometry, read_labels, read_volume
from textdiffseg.imaging.sources.headers import MAX_WORD_BYTES, NO_ORIENTATION, NO_SPACING, _numbers
from textdiffseg.imaging.sources.itk import volume_of_image
from textdiffseg.imaging.sources.streams import Damaged

ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
EIGHT = bytes(range(8))


def image_of(kind=np.int16, shape=(6, 7, 8), channels=1) -> sitk.Image:
    rng = np.random.default_rng(0)
    size = shape if channels == 1 else (*shape, channels)
    array = np.repeat(rng.integers(0, 90, size), 2, axis=0).astype(kind)
    image = sitk.GetImageFromArray(array, isVector=channels > 1)
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((10, -20, 30))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    return image


def nrrd(path: Path, lines="", voxels=EIGHT, **fields) -> Path:
    fields = {"type": "uchar", "dimension": "3", "sizes": "2 2 2", "encoding": "raw"} | fields
    header = "".join(f"{name.replace('_', ' ')}: {value}\n" for name, value in fields.items() if value is not None)
    path.write_bytes(f"NRRD0004\n{header}{lines}\n".encode() + voxels)
    return path


def meta(path: Path, voxels=EIGHT, **fields) -> Path:
    fields = {"NDims": "3", "DimSize": "2 2 2", "ElementType": "MET_UCHAR", "BinaryData": "True"} | fields
    fields = {name: value for name, value in fields.items() if value is not None and name != "ElementDataFile"} | {
        "ElementDataFile": fields.get("ElementDataFile", "LOCAL")
    }
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in fields.items()).encode() + voxels)
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_values_and_places_are_those_that_itk_reads(tmp_path, ending, kind, channels, packed):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image_of(np.dtype(kind), channels=channels), str(path), useCompression=packed)
    found, expected = read_volume((path,)), volume_of_image(sitk.ReadImage(str(path)), "")
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.geometry.affine, expected.geometry.affine)
    assert np.array_equal(read_geometry(path).affine, expected.geometry.affine)


def test_four_dimensions_are_channels(tmp_path):
    image = sitk.JoinSeries([image_of(), image_of() + 1])
    for ending in (".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        assert np.array_equal(read_volume((tmp_path / f"a{ending}",)).array, sitk.GetArrayFromImage(image))


def test_channels_may_lie_along_the_last_axis(tmp_path):
    values = np.arange(2 * 3 * 4 * 5, dtype=np.uint8)
    fields = {"dimension": 4, "sizes": "5 4 3 2", "kinds": "domain domain domain vector"}
    path = nrrd(tmp_path / "a.nrrd", voxels=values.tobytes(), **fields)
    assert np.array_equal(read_volume((path,)).array, values.reshape(2, 3, 4, 5))


@pytest.mark.parametrize("order", ["big", "little"])
def test_either_order_of_bytes(tmp_path, order):
    voxels = np.arange(8, dtype=f"{'>' if order == 'big' else '<'}i2")
    one = nrrd(tmp_path / "a.nrrd", type="short", endian=order, voxels=voxels.tobytes())
    big = {"BinaryDataByteOrderMSB": str(order == "big")}
    other = meta(tmp_path / "a.mha", ElementType="MET_SHORT", voxels=voxels.tobytes(), **big)
    for path in (one, other):
        assert np.array_equal(read_volume((path,)).array.ravel(), np.arange(8))


def test_voxels_of_their_own_file_text_and_skipped_bytes(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"abc" + EIGHT)
    digits = " ".join(str(number) for number in range(8)).encode()
    paths = [
        nrrd(tmp_path / "a.nhdr", voxels=b"", data_file="./v.raw", byte_skip="3"),
        nrrd(tmp_path / "b.nhdr", voxels=b"", data_file="v.raw", byte_skip="-1"),
        meta(tmp_path / "c.mhd", voxels=b"", ElementDataFile="v.raw", HeaderSize="3"),
        meta(tmp_path / "d.mhd", voxels=b"", ElementDataFile="v.raw", HeaderSize="-1"),
        nrrd(tmp_path / "e.nrrd", encoding="ascii", voxels=digits),
        meta(tmp_path / "f.mha", BinaryData="False", voxels=digits + b"\n"),
        nrrd(tmp_path / "g.NRRD", lines="# a comment\nkey:=a: value\n" + "tags:=" + "x" * 50_000 + "\n"),
    ]
    for path in paths:
        assert np.array_equal(read_volume((path,)).array.ravel(), np.arange(8)), path


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_stream_is_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image_of(shape=(20, 30, 40)), str(path), useCompression=True)
    (held,) = [one for one in tmp_path.iterdir() if one != path] or [path]
    whole = held.read_bytes()
    for damage in ("zeroed", "cut", "cut before its checksum", "longer"):
        content = bytearray(whole)
        if damage == "zeroed":
            content[len(content) // 2 : len(content) // 2 + 5] = bytes(5)
        elif damage == "longer":
            content += b"more"
        else:
            del content[len(content) // 2 if damage == "cut" else len(content) - 3 :]
        held.write_bytes(content)
        with pytest.raises(UserError, match=r"a\..*is truncated or damaged .*Copy it again"):
            read_volume((path,))
    held.write_bytes(whole)
    read_volume((path,))


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_a_changed_value_is_seen_by_its_checksum(tmp_path, pack):
    packed = bytearray(pack(EIGHT, 0))
    packed[packed.index(EIGHT)] ^= 1
    for path in (
        meta(tmp_path / "a.mha", CompressedData="True", voxels=packed),
        nrrd(tmp_path / "a.nrrd", encoding="gzip", voxels=packed),
    ):
        with pytest.raises(UserError, match="is truncated or damaged"):
            read_volume((path,))


@pytest.mark.parametrize("packed", [True, False])
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path, packed):
    voxels = zlib.compress(bytes(1000)) if packed else bytes(1000)
    big = {"voxels": voxels, "DimSize": "1000 1000 500", "ElementType": "MET_FLOAT", "CompressedData": str(packed)}
    encoding = "gzip" if packed else "raw"
    for path in (
        meta(tmp_path / "a.mha", **big),
        nrrd(
            tmp_path / "a.nrrd", type="float", endian="little", sizes="1000 1000 500", encoding=encoding, voxels=voxels
        ),
        nrrd(tmp_path / "b.nrrd", type="float", sizes="1000 1000 500", encoding="text", voxels=voxels),
    ):
        with pytest.raises(UserError, match="declares 500000000 values"):
            read_volume((path,))
        assert read_geometry(path) is None


@pytest.mark.parametrize(
    "name",
    ["../v.raw", "sub/v.raw", "/dev/zero", "../../../../etc/passwd", "zero", "away.raw", "sub", "", "..", "v\\a"],
)
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_voxels_lie_beside_their_header_in_a_plain_file(tmp_path, name, ending):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "v.raw", folder / "sub" / "v.raw"):
        place.write_bytes(EIGHT)
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "away.raw").symlink_to(tmp_path / "v.raw")
    path = folder / f"a{ending}"
    if ending == ".mhd":
        meta(path, voxels=b"", ElementDataFile=name)
    else:
        nrrd(path, voxels=b"", data_file=name)
    with pytest.raises(UserError, match=rf"a\{ending}.*(same folder|missing|contains the line)"):
        read_volume((path,))


def test_links_to_a_header_and_its_voxels_are_read(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "v.raw").write_bytes(EIGHT)
    meta(tmp_path / "kept" / "a.mhd", voxels=b"", ElementDataFile="v.raw")
    for name in ("a.mhd", "v.raw"):
        (tmp_path / name).symlink_to(tmp_path / "kept" / name)
    assert np.array_equal(read_volume((tmp_path / "a.mhd",)).array.ravel(), np.arange(8))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "block"}, "type: 'block' is not supported"),
        ({"type": "short"}, "endian: expected"),
        ({"encoding": "bzip2"}, "encoding: 'bzip2' is not supported"),
        ({"dimension": "4"}, "dimension: 4, and sizes has 3"),
        ({"dimension": "99999", "sizes": "2 " * 20}, "sizes: expected whole numbers"),
        ({"sizes": "2 2 -2"}, "sizes: expected whole numbers"),
        ({"sizes": "2 2 0"}, "at least 1"),
        ({"kinds": "domain domain"}, "kinds: expected 3 words"),
        ({"kinds": "RGB-color domain domain", "sizes": "3 1 1"}, "colours or complex"),
        ({"space": "somewhere"}, "space: 'somewhere' is not supported"),
        ({"data_file": "LIST"}, "several files"),
        ({"data_file": "a%03d.raw 1 10 1"}, "several files"),
        ({"line_skip": "2"}, "line skip '2'"),
        ({"nonsense": "2"}, "contains the line"),
        ({"units": '"' + "m" * 500 + '"'}, "expected at most 400"),
        ({"sizes": None}, "sizes: expected"),
    ],
)
def test_nrrd_headers_that_are_refused(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        read_volume((nrrd(tmp_path / "a.nrrd", **fields),))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ElementDataFile": "LIST"}, "several files"),
        ({"ElementDataFile": "a%03d.raw 1 10 1"}, "several files"),
        ({"ElementType": "MET_STRING"}, "ElementType: 'MET_STRING' is not supported"),
        ({"NDims": "200"}, "NDims: 200"),
        ({"NDims": "2", "DimSize": "2 4"}, "found 2 dimensions"),
        ({"ElementNumberOfChannels": "-1"}, "ElementNumberOfChannels: expected"),
        ({"HeaderSize": "7"}, "HeaderSize: '7' is not supported"),
        ({"HeaderSize": "\u00b2"}, "HeaderSize: '\u00b2' is not supported"),
        ({"DimSize": "2 2 x"}, "DimSize: expected"),
        ({"A:B": "2"}, "contains the line 'A:B'"),
        ({"Comment": "x" * 9000}, "a line of its header has 9010 bytes"),
    ],
)
def test_metaimage_headers_that_are_refused(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        read_volume((meta(tmp_path / "a.mha", **fields),))


def test_sheared_axes_follow_the_rule_of_all_formats(tmp_path):
    for amount, words in ((0.005, None), (0.05, "right angles by 5.0%")):
        directions = f"(1,0,0) ({amount},1,0) (0,0,1)"
        path = nrrd(tmp_path / "a.nrrd", space="left-posterior-superior", space_directions=directions)
        if words is None:
            assert read_volume((path,)).notes == (STRAIGHTENED,)
        else:
            with pytest.raises(UserError, match=words):
                read_volume((path,))


def test_lines_and_names_that_end_itk_are_one_line_here(tmp_path):
    """In a process of its own: ITK ends it with SIGSEGV or SIGABRT."""
    long = "a" * 100_000
    for number, line in enumerate((long, f"space: {long}", f"kinds: {long} b c", f"data file: {long}", f"# {long}")):
        nrrd(tmp_path / f"line{number}.nrrd", lines=f"{line}\n")
    deep = tmp_path / "/".join(["d" * 200] * 6)
    deep.mkdir(parents=True)
    nrrd(deep / "deep.nrrd", voxels=b"abc")
    nrrd(tmp_path / os.fsdecode(b"\xff.nrrd"))
    meta(tmp_path / os.fsdecode(b"\xff.mha"))
    code = (
        "import sys\nfrom pathlib import Path\nfrom plans.errors import UserError\n"
        "from textdiffseg.imaging.sources.files import read_geometry, read_volume\n"
        "from textdiffseg.imaging.sources.scans import list_scans\n"
        "for path in sorted(Path(sys.argv[1]).rglob('*.*')):\n"
        "    read_geometry(path)\n"
        "    try:\n        read_volume((path,))\n"
        "    except UserError as error:\n        print(ascii(str(error)))\n"
        "    else:\n        print('read')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert sum("not in UTF-8" in line for line in lines) == 2
    assert sum("too long" in line for line in lines) == 1
    assert not {"read"} & {*lines}


def test_streams_that_itk_decompresses_are_checked_too(tmp_path):
    """Where the axis of the channels is not clear from the sizes, ITK arranges the voxels of NRRD."""
    two = bytes(range(16))
    for kind, packed in (("gzip", bytearray(gzip.compress(two, 0))), ("zlib", bytearray(zlib.compress(two, 0)))):
        fields = {"dimension": 4, "sizes": "2 2 2 2", "kinds": "domain domain domain vector", "encoding": "gzip"}
        channels = {"CompressedData": "True", "ElementNumberOfChannels": "2"}
        path = tmp_path / ("a.nrrd" if kind == "gzip" else "a.mha")
        for change in (0, 1):
            packed[packed.index(EIGHT) + 3] ^= change
            if kind == "gzip":
                nrrd(path, voxels=bytes(packed), **fields)
            else:
                meta(path, voxels=bytes(packed), **channels)
            if not change:
                assert read_volume((path,)).array.size == 16
                continue
            with pytest.raises(UserError, match="is truncated or damaged"):
                read_volume((path,))


VECTORS = "(1,0,0) (0,1,0) (0,0,1)"
LPS = {"space": "left-posterior-superior", "space_directions": VECTORS}


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        (LPS, ()),
        ({}, (NO_SPACING, NO_ORIENTATION)),
        ({"spacings": "1 1 1"}, (NO_ORIENTATION,)),
        (LPS | {"space": "scanner-xyz"}, (NO_ORIENTATION,)),
        (LPS | {"space_units": '"mm" "mm" "mm"'}, ()),
    ],
)
def test_a_note_reports_what_a_nrrd_header_leaves_open(tmp_path, fields, notes):
    assert read_volume((nrrd(tmp_path / "a.nrrd", **fields),)).notes == notes


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (LPS | {"space_directions": "none (0,1,0) (0,0,1)"}, "space directions: expected a spacing above 0"),
        ({"spacings": "1 -1 1"}, "spacings: expected a spacing above 0"),
        ({"spacings": "1 nan 1"}, "spacings: expected a spacing above 0"),
        (LPS | {"space_units": '"cm" "cm" "cm"'}, "unit of length is 'cm', expected mm"),
        ({"spacings": "1 1_0 1"}, "spacings: expected a spacing above 0"),
        (LPS | {"space_origin": "(1_0,0,0)"}, "space origin: expected numbers in mm, found '.1_0,0,0.'"),
        (LPS | {"space_origin": "none"}, "space origin: expected numbers in mm, found 'none'"),
        (LPS | {"space_origin": "(nan,nan,nan)"}, "space origin: expected numbers in mm"),
        ({"space_dimension": 3, "space_origin": "none"}, "space origin: expected numbers in mm"),
        (LPS | {"space_origin": "(1e30,0,0)"}, "origin is 1e.30/0/0 mm, expected numbers of at most 100000"),
    ],
)
def test_nrrd_headers_that_do_not_place_the_voxels_are_refused(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        read_volume((nrrd(tmp_path / "a.nrrd", **fields),))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("packed", [True, False])
def test_the_slope_and_the_offset_of_a_metaimage_are_applied(tmp_path, packed, channels):
    """ITK ignores them. Of a compressed file without the size of its stream it also reads no voxels, without a word."""
    values = np.arange(8 * channels, dtype=np.int16)
    fields = {"ElementType": "MET_SHORT", "ElementNumberOfChannels": channels, "CompressedData": packed}
    fields |= {"ElementToIntensityFunctionSlope": "2.5", "ElementToIntensityFunctionOffset": "-1024"}
    voxels = zlib.compress(values.tobytes()) if packed else values.tobytes()
    found = read_volume((meta(tmp_path / "a.mha", voxels, **fields),))
    assert found.array.dtype == np.float32
    expected = np.moveaxis(values.reshape(2, 2, 2, channels), -1, 0) * 2.5 - 1024
    assert np.array_equal(found.array, expected)


def test_a_label_map_has_its_scale(tmp_path):
    path = meta(tmp_path / "a.mha", ElementToIntensityFunctionSlope="2")
    assert read_labels(path).array.ravel().tolist() == [2 * value for value in EIGHT]
    meta(path, ElementToIntensityFunctionSlope="0.5")
    with pytest.raises(UserError, match="label values must be whole numbers"):
        read_labels(path)
    meta(path, ElementToIntensityFunctionSlope="1.0", ElementToIntensityFunctionOffset="0")
    assert read_labels(path).array.dtype == np.uint8


PLACED = {"ElementSpacing": "1 2 3", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0"}


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        (PLACED, ()),
        (PLACED | {"ElementSpacing": None, "ElementSize": "1 2 3"}, ()),
        (PLACED | {"TransformMatrix": None, "Rotation": "1 0 0 0 1 0 0 0 1"}, ()),
        (PLACED | {"ElementSpacing": None}, (NO_SPACING,)),
        (PLACED | {"TransformMatrix": None}, (NO_ORIENTATION,)),
    ],
)
def test_a_note_reports_what_a_metaimage_header_leaves_open(tmp_path, fields, notes):
    assert read_volume((meta(tmp_path / "a.mha", **fields),)).notes == notes


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ElementSpacing": "-1 2 3"}, "ElementSpacing: expected a spacing above 0"),
        ({"ElementSpacing": "1 2"}, "ElementSpacing: expected a spacing above 0"),
        ({"ElementSpacing": "1_0 2 3"}, "ElementSpacing: expected a spacing above 0"),
        ({"ElementSpacing": "\u0661 2 3"}, "ElementSpacing: expected a spacing above 0"),
        ({"ElementToIntensityFunctionSlope": "1_0"}, "Slope: expected one number, found '1_0'"),
        ({"ElementSpacing": "nan 2 3"}, "ElementSpacing: expected a spacing above 0"),
        ({"Offset": "nan 0 0"}, "Offset: expected 3 numbers"),
        ({"Offset": "0 0 -1e300"}, "origin is 0/0/-1e.300 mm, expected numbers of at most 100000"),
        ({"TransformMatrix": "1 0 0 0 1"}, "TransformMatrix: expected 9 numbers"),
        ({"DistanceUnits": "um"}, "unit of length is 'um', expected mm"),
        ({"DistanceUnits": "pixel"}, "unit of length is 'pixel', expected mm"),
        ({"Offset": "0 0 0", "Position": "0 0 5"}, "Offset and Position contradict each other"),
        ({"Rotation": "0 1 0 -1 0 0 0 0 1"}, "TransformMatrix and Rotation contradict each other"),
        (
            {"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "True"},
            "BinaryDataByteOrderMSB and ElementByteOrderMSB contradict each other",
        ),
        ({"ElementToIntensityFunctionSlope": "0"}, "Slope: expected a number other than 0"),
        ({"ElementToIntensityFunctionSlope": "2 3"}, "Slope: expected one number, found '2 3'"),
        ({"ElementToIntensityFunctionOffset": "inf"}, "Offset: expected one number, found 'inf'"),
        ({"ElementToIntensityFunctionOffset": "x"}, "Offset: expected one number, found 'x'"),
    ],
)
def test_metaimage_headers_that_give_no_place_or_no_values_are_refused(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        read_volume((meta(tmp_path / "a.mha", **PLACED | fields),))


def test_two_names_of_one_metaimage_field_may_agree(tmp_path):
    alike = {"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "0", "Offset": "1 2 3", "Origin": "1.0 2 3"}
    path = meta(tmp_path / "a.mha", **PLACED | alike)
    assert read_volume((path,)).geometry.affine[:3, 3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("text", [b"0 1 2 3 4 5 6 7", b"0,1,2,3\n4,5,6,7\n"])
def test_numbers_written_as_text_are_read(tmp_path, text):
    files = meta(tmp_path / "a.mha", text, BinaryData="False"), nrrd(tmp_path / "b.nrrd", "", text, encoding="ascii")
    for file in files:
        assert read_volume((file,)).array.ravel().tolist() == [*range(8)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"0 1 2 3 4 5   66", "7 of 8 values"),
        (b"0 1 2 3 4 5 6 x", "not all num"),
        (b"0 1 2 3 4 5 6 1_0", "not all num"),
    ],
)
def test_text_that_does_not_hold_the_numbers_is_refused(tmp_path, text, words, capfd):
    with pytest.raises(UserError, match=words):
        read_volume((meta(tmp_path / "a.mha", text, BinaryData="False"),))
    assert capfd.readouterr().err == "", "ITK's own lines would stand among the command's"


def test_text_voxels_take_memory_by_their_number_and_not_by_the_longest_one():
    values = np.arange(64 * 64 * 16, dtype=np.float32)
    text = " ".join(map(str, values)).encode()
    long = text.replace(b"0.0", b"0." + b"0" * (MAX_WORD_BYTES - 2), 1)
    assert np.array_equal(_numbers(long, np.dtype(np.float32), len(values)), values)
    tracemalloc.start()
    _numbers(long, np.dtype(np.float32), len(values))
    assert tracemalloc.get_traced_memory()[1] < 100 * len(values)
    tracemalloc.stop()
    with pytest.raises(Damaged, match="a value has 401 characters"):
        _numbers(long.replace(b"0.0", b"0.00", 1), np.dtype(np.float32), len(values))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("write", [meta, nrrd])
def test_more_voxels_than_the_header_declares_are_refused_but_not_a_few_bytes_or_zeros(tmp_path, write, packed):
    fields = ({"CompressedData": "True"} if write is meta else {"encoding": "gzip"}) if packed else {}
    pack = (zlib.compress if write is meta else gzip.compress) if packed else bytes
    path = tmp_path / ("a.mha" if write is meta else "a.nrrd")
    for more in (b"\n", bytes(100)):
        assert read_volume((write(path, voxels=pack(EIGHT + more), **fields),)).array.ravel().tolist() == [*EIGHT]
    with pytest.raises(UserError, match=r"truncated or damaged \(8 bytes with values follow the voxels"):
        read_volume((write(path, voxels=pack(EIGHT + EIGHT), **fields),))
