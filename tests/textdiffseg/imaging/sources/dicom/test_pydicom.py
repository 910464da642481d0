"""Values and places equal those of a second reader, pydicom (the extra `dev`)."""

import numpy as np
import pytest

from textdiffseg.imaging.sources.files import read_volume

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

SLOPES = [("1.5", "-3"), ("0.0123457", "0"), ("2", "1"), ("0.5", "0.25"), ("7", "-1024")]


def item(**fields) -> Dataset:
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def made(array, syntax=ExplicitVRLittleEndian, sop_class=PositronEmissionTomographyImageStorage, **fields) -> Dataset:
    """A data set of stored values (rows, columns) or (frames, rows, columns)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, fields.get("SOPInstanceUID", "1.2.3.9")
    meta.TransferSyntaxUID = syntax
    usual = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": "1.2.3.9",
        "SeriesInstanceUID": "1.2.3",
        "PatientName": "A^B",
        "Rows": array.shape[-2],
        "Columns": array.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelData": array.astype(">i2" if syntax == ExplicitVRBigEndian else "<i2").tobytes(),
    }
    data = item(**(usual | fields))
    data["PixelData"].VR = "OW"
    data.file_meta = meta
    # A nested private sequence and an icon, which the reader skips.
    block = data.private_block(0x0019, "OURS", create=True)
    block.add_new(0x01, "SQ", [item(PatientID="x", ReferencedImageSequence=[item(ReferencedSOPInstanceUID="1.2")])])
    data.IconImageSequence = [item(Rows=1, Columns=1, PixelData=b"\x01\x00")]
    data.IconImageSequence[0]["PixelData"].VR = "OW"
    return data


def rescaled(data: Dataset) -> np.ndarray:
    return data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_a_pet_series_with_a_slope_per_slice(tmp_path, voxels, syntax):
    voxels, truth = np.tile(voxels, (1, 4, 4)), []  # GDCM does not read RLE slices of a few bytes
    for number, (plane, (slope, intercept)) in enumerate(zip(voxels, SLOPES, strict=True)):
        position = ["-1.5", "2.25", f"{3.3 * number:.6g}"]
        fields = {"ImagePositionPatient": position, "ImageOrientationPatient": list("100010"), "PixelSpacing": [2, 3]}
        fields |= {"RescaleSlope": slope, "RescaleIntercept": intercept, "SOPInstanceUID": f"1.2.3.{number + 1}"}
        first = ExplicitVRLittleEndian if syntax == RLELossless else syntax
        data = made(plane, first, **fields)
        if syntax == RLELossless:
            data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(tmp_path / f"{number}", enforce_file_format=True)
        truth.append(rescaled(pydicom.dcmread(tmp_path / f"{number}")))
    scan = read_volume((tmp_path,))
    np.testing.assert_allclose(scan.array[0], truth, rtol=1e-6)
    np.testing.assert_allclose(scan.geometry.affine[:3, 3], (-1.5, 2.25, 0))
    np.testing.assert_allclose(scan.geometry.spacing, (3.3, 2, 3))


@pytest.mark.parametrize("kind", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(5, 6, 8), (5, 3, 7)])
def test_pixels_of_one_byte_in_big_endian(tmp_path, shape, kind):
    """In words of two bytes, the bytes of each pair are exchanged. A frame of 21 bytes ends inside a pair."""
    voxels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    groups = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * z])]) for z in range(5)]
    content = voxels.tobytes() + b"\0" * (voxels.size % 2)
    if kind == "OW":
        content = np.frombuffer(content, "<u2").astype(">u2").tobytes()
    fields = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": content}
    fields |= {"NumberOfFrames": 5, "PerFrameFunctionalGroupsSequence": groups}
    fields |= {"ImageOrientationPatient": list("100010"), "PixelSpacing": [2, 3]}
    data = made(voxels, ExplicitVRBigEndian, EnhancedMRImageStorage, **fields)
    data["PixelData"].VR = kind
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(pydicom.dcmread(tmp_path / "a.dcm").pixel_array, voxels)
    assert np.array_equal(read_volume((tmp_path / "a.dcm",)).array[0], voxels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 2, 1)])
def test_an_enhanced_mr_file_with_a_slope_and_a_place_per_frame(tmp_path, voxels, syntax, order):
    """The frames lie in an oblique plane, and the file does not hold them in order."""
    row, column = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
    normal = np.cross(row, column)
    groups = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[f"{value:.8g}" for value in 4 * number * normal])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*row, *column])],
            PixelMeasuresSequence=[item(PixelSpacing=[2, 3], SliceThickness=4)],
            PixelValueTransformationSequence=[item(RescaleSlope=SLOPES[number][0], RescaleIntercept=SLOPES[number][1])],
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=number + 1)],
        )
        for number in order
    ]
    first = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    fields = {"NumberOfFrames": 5, "PerFrameFunctionalGroupsSequence": groups, "ImageType": ["ORIGINAL", "PRIMARY"]}
    data = made(voxels[list(order)], first, EnhancedMRImageStorage, **fields)
    if syntax == RLELossless:
        data.compress(RLELossless)
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    scan = read_volume((tmp_path / "a.dcm",))
    frames = pydicom.dcmread(tmp_path / "a.dcm").pixel_array
    for place, number in enumerate(order):
        slope, intercept = map(float, SLOPES[number])
        np.testing.assert_allclose(scan.array[0, number], frames[place] * slope + intercept, rtol=1e-6)
    expected = np.stack([4 * normal, 2 * column, 3 * row], axis=1)
    np.testing.assert_allclose(scan.geometry.affine[:3, :3], expected, atol=1e-6)
