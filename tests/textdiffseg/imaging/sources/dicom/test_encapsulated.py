"""Compressed frames that lie in several fragments."""

import struct
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk

from plans.errors import UserError
from textdiffseg.imaging.sources.dicom.encapsulated import one_fragment_per_frame
from textdiffseg.imaging.sources.files import read_volume
from textdiffseg.imaging.sources.streams import Damaged

JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
PLACES = [(1, 2, 2.0 * number) for number in range(5)]


def item(value=b""):
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def encapsulated(frames, per_frame, table):
    """Pixel data of compressed frames, each in `per_frame` fragments, with or without an offset table."""
    content, offsets = b"", []
    for frame in frames:
        offsets.append(len(content))
        size = len(frame) // per_frame // 2 * 2
        cuts = [*range(0, size * per_frame, size), len(frame)]
        for start, end in pairwise(cuts):
            content += item(frame[start:end] + b"\0" * ((end - start) % 2))
    head = item(struct.pack(f"<{len(offsets)}I", *offsets) if table else b"")
    return head + content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).integers(0, 400, (5, 24, 32)).astype(np.int16)


def in_jpeg_2000(array, folder):
    found = []
    for plane in array:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "frame.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
        writer.Execute(sitk.GetImageFromArray(plane[None]))
        content = (folder / "frame.dcm").read_bytes()
        found.append(content[content.index(b"\xff\x4f\xff\x51") : content.rindex(b"\xff\xd9") + 2])
    return found


def in_jpeg_ls(array, folder):
    jpeg_ls = pytest.importorskip("jpeg_ls")
    return [bytes(jpeg_ls.encode(plane.astype(np.uint16))) for plane in array]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("per_frame", [1, 2, 3])
@pytest.mark.parametrize(("syntax", "encode"), [(JPEG_2000, in_jpeg_2000), (JPEG_LS, in_jpeg_ls)])
def test_a_frame_may_lie_in_several_fragments(tmp_path, write_multi_frame, array, syntax, encode, per_frame, table):
    pixels = encapsulated(encode(array, tmp_path), per_frame, table)
    fields = {"fragments": pixels, "syntax": syntax, "signed": int(syntax == JPEG_2000)}
    path = write_multi_frame(tmp_path / "many.dcm", array, PLACES, **fields)
    assert np.array_equal(read_volume((path,)).array[0], array)


def test_an_offset_table_shows_where_frames_begin():
    """Also where the first bytes of a frame are not known, or a fragment begins with them by chance."""
    frames = [b"\xff\xd8aaaa", b"bb\xff\xd8bb"]
    assert one_fragment_per_frame(encapsulated(frames, 3, True), 2) == encapsulated(frames, 1, False)
    content = bytearray(encapsulated([b"aaaaaa", b"bbbbbb"], 3, True))
    content[8:12] = struct.pack("<I", 10)  # the table does not begin with the first fragment
    with pytest.raises(Damaged, match="cannot be assigned"):
        one_fragment_per_frame(bytes(content), 2)
    with pytest.raises(Damaged, match="the 6 fragments of its pixels cannot be assigned to its 2 frames"):
        one_fragment_per_frame(encapsulated([b"aaaaaa", b"bbbbbb"], 3, False), 2)


def test_one_frame_and_one_fragment_per_frame_stay_as_they_are():
    for frames, per_frame in (([b"abcdef"], 3), ([b"abcdef", b"ghijkl"], 1)):
        content = encapsulated(frames, per_frame, True)
        assert one_fragment_per_frame(content, len(frames)) == content


def test_a_message_about_damaged_pixels_holds_no_address(tmp_path, write_multi_frame, array):
    frames = [frame[:40] for frame in in_jpeg_2000(array, tmp_path)]
    path = write_multi_frame(
        tmp_path / "a.dcm", array, PLACES, fragments=encapsulated(frames, 2, True), syntax=JPEG_2000
    )
    with pytest.raises(UserError, match=r"its pixels cannot be decompressed: .*GDCM") as error:
        read_volume((path,))
    assert "0x" not in str(error.value)
