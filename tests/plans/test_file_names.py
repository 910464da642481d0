"""Names of labels become safe and different file names. The names of images are recognised."""

from plans.file_names import MAX_STEM_BYTES, channel_file, is_image_name, label_stems, safe_name, split_channel


def test_names_of_labels_keep_letters_of_any_language():
    assert label_stems(("left kidney", "Leber (links)", "肝臓", "grade-2"), (1, 2, 3, 4)) == (
        "left_kidney",
        "Leber_links",
        "肝臓",
        "grade-2",
    )


def test_names_that_become_equal_get_their_values():
    names = ("a/b", "A b", "a_b.2", "..", "/", "liver")
    stems = label_stems(names, (1, 2, 3, 4, 5, 6))
    assert stems == ("a_b.1", "A_b.2", "a_b_2", "label.4", "label.5", "liver")
    assert len({stem.casefold() for stem in stems}) == len(names)


def test_long_names_are_cut_to_bytes():
    assert safe_name("é" * 30) == "é" * 20
    long = ("x" * 300 + "1", "x" * 300 + "2")
    assert label_stems(long, (7, 8)) == ("x" * MAX_STEM_BYTES + ".7", "x" * MAX_STEM_BYTES + ".8")


def test_only_four_digits_at_the_end_are_a_channel():
    assert split_channel("liver_0001_0012") == ("liver_0001", 12)
    assert split_channel(channel_file("case 1", 3, "")) == ("case 1", 3)
    assert not any(map(split_channel, ("liver", "liver_001", "liver_00001", "liver0001", "_0001", "a_0001.b")))


def test_images_are_recognised_by_their_names():
    assert all(map(is_image_name, ("a.nii.gz", "A.NRRD", "b.mgz", "c.dcm")))
    assert not any(map(is_image_name, ("out", "out.d", "a.nii.gz.d", "dcm")))
