"""A series that holds several images, such as two echoes, is refused. Its slices may be one regular stack."""

import numpy as np
import pytest

from textdiffseg.imaging.sources.files import read_volume

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.parametrize(
    ("name", "usual", "odd", "words"),
    [
        ("echo_time", "4.6", "12.5", "EchoTime (12.5, 4.6), as slice"),
        ("echo_number", "1", "2", "EchoNumbers (2, 1)"),
        ("echo_number", None, "2", "EchoNumbers (2, missing)"),
        ("units", "BQML", "GML", "Units (GML, BQML)"),
        ("sop_class", MR, "1.2.840.10008.5.1.4.1.1.2", f"SOPClassUID (1.2.840.10008.5.1.4.1.1.2, {MR})"),
        ("stack", "1", "2", "StackID (2, 1)"),
        ("stack", "1000", "1001", "StackID (1001, 1000)"),
    ],
)
def test_a_series_of_several_images(refused, tmp_path, write_series, voxels, name, usual, odd, words):
    """Only this attribute shows that the slices do not belong together."""
    each = [{name: usual}] * 4 + [{name: odd}]
    line = refused(write_series(tmp_path / "in", voxels, each=each), "1.2.3: its slices differ in", words)
    assert f"put the slices of each {words.partition(' ')[0]} into their own folder" in line
    write_series(tmp_path / "alike", voxels, each=[{name: usual}] * 5)
    assert np.array_equal(read_volume((tmp_path / "alike",)).array[0], voxels)


def test_echo_times_that_differ_by_rounding_are_one_image(tmp_path, write_series, voxels):
    each = [{"echo_time": text} for text in ("4.6", "4.60", "4.602", "4.598", "4.6")]
    assert np.array_equal(read_volume((write_series(tmp_path / "in", voxels, each=each),)).array[0], voxels)


@pytest.mark.parametrize(
    ("group", "inner", "values", "words"),
    [
        ("content", "stack", ("1", "2"), "StackID (1, 2), as a.dcm, frame 1 and a.dcm, frame 4"),
        ("echo", "effective_echo_time", (2.5, 5.0), "EffectiveEchoTime (2.5, 5)"),
    ],
)
def test_several_images_in_one_multi_frame_file(
    refused, tmp_path, write_multi_frame, voxels, group, inner, values, words
):
    places = [(1, 2, 2.0 * number) for number in range(5)]
    for name, numbers in (("alike.dcm", (0, 0, 0, 0, 0)), ("a.dcm", (0, 0, 0, 1, 1))):
        groups = [
            {"plane_position": [{"position": place}], group: [{inner: values[number]}]}
            for place, number in zip(places, numbers, strict=True)
        ]
        path = write_multi_frame(tmp_path / name, voxels, places, frame_groups=groups)
        if name == "alike.dcm":
            assert np.array_equal(read_volume((path,)).array[0], voxels)
    refused(path, words, "Split the file into one per")
