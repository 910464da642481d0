"""Scans and masks are paired by their names, and what is doubtful is not paired."""

from unicodedata import normalize

import pytest

from plans.raw.pairing import is_mask_name, pair


def pairs(images, masks):
    return {one.case: (one.images, one.mask) for one in pair(images, masks).pairs}


@pytest.mark.parametrize(
    ("image", "mask", "case"),
    [
        ("pt_1_0000", "pt_1", "pt_1"),
        ("pt_1", "pt_1", "pt_1"),
        ("Patient01_CT", "Patient01_seg", "Patient01"),
        ("volume-12", "segmentation-12", "12"),
        ("img0007", "label0007", "0007"),
        ("a", "a.seg", "a"),
        ("a", "A-Label", "A"),
        ("scan_a_image", "a_gt_mask", "a"),
        ("a/ct", "a/mask", "a"),
        ("a/ct", "a_seg", "a"),
        ("a_image", "labels/a", "a"),
        ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T1w_label-lesion_mask", "sub-01_T1w_label-lesion"),
    ],
)
def test_names_of_one_case(image, mask, case):
    assert pairs([image], [mask]) == {case: ((image,), mask)}


def test_unicode_forms_make_no_difference():
    decomposed, composed = (normalize(form, "fä") for form in ("NFD", "NFC"))
    assert pairs([decomposed], [f"{composed}_seg"]) == {composed: ((decomposed,), f"{composed}_seg")}


def test_each_case_gets_its_own_mask():
    names = [f"{place:04d}" for place in range(12)]  # they look like channels of each other
    found = pairs([f"amos_{one}" for one in names], [f"amos_{one}" for one in names])
    assert found == {f"amos_{one}": ((f"amos_{one}",), f"amos_{one}") for one in names}


def test_no_two_cases_get_one_name():
    names = ["p_1/2/scan", "p/1_2/scan", "P_1_2/scan"]
    found = pair(names, [name.replace("scan", "seg") for name in names])
    assert sorted(one.images[0] for one in found.pairs) == sorted(names)
    assert len({one.case.casefold() for one in found.pairs}) == len(names)


def test_channels_of_a_case_are_in_order():
    found = pairs(["a_0001", "a_0000", "b_0000", "b_0001"], ["a", "b_seg"])
    assert found == {"a": (("a_0000", "a_0001"), "a"), "b": (("b_0000", "b_0001"), "b_seg")}


def test_what_has_no_partner_is_listed():
    pairing = pair(["a", "b_0000", "c"], ["a_mask", "d_mask"])
    assert [one.case for one in pairing.pairs] == ["a"]
    assert (pairing.images, pairing.masks) == (("b_0000", "c"), ("d_mask",))


def test_two_scans_of_one_mask_are_not_paired():
    pairing = pair(["a_T1", "a_FLAIR", "b"], ["a_seg", "b_seg"])
    assert [one.case for one in pairing.pairs] == ["b"]
    assert pairing.images == ("a_T1", "a_FLAIR")
    assert pairing.doubtful == ("a_T1 and a_FLAIR fit a_seg: only one can.",)


def test_names_that_differ_are_not_paired_because_they_are_left():
    assert pairs(["pt_1"], ["pt_2"]) == {}
    assert [*pairs(["set/pt_1", "set/a"], ["set/pt_2", "set/a_seg"])] == ["a"]
    assert pairs(["p1/day1/t2star"], ["p1/drawn by hand"]) == {
        "drawn by hand": (("p1/day1/t2star",), "p1/drawn by hand")
    }


def test_two_masks_of_one_scan_are_not_paired():
    pairing = pair(["a"], ["a_seg", "a_mask"])
    assert (pairing.pairs, pairing.masks) == ((), ("a_seg", "a_mask"))
    assert pairing.doubtful == ("a_seg and a_mask fit a: only one can.",)


def test_a_missing_channel_is_reported():
    pairing = pair(["a_0000", "a_0002"], ["a"])
    assert pairing.pairs == ()
    assert pairing.doubtful == ("a: its scan has the channels 0000, 0002: one is missing.",)


def test_an_equal_name_is_stronger_than_a_similar_one():
    assert pairs(["a", "a_ct"], ["a", "a_seg"]) == {"a": (("a",), "a"), "a_seg": (("a_ct",), "a_seg")}


def test_masks_that_name_their_scan_need_no_names():
    (one,) = pair(["x/1", "x/2"], ["y"], {"y": "x/2"}).pairs
    assert (one.images, one.mask) == (("x/2",), "y")


def test_case_ids_are_plain_and_different():
    found = pair(["p1/ct", "p2/ct", "é :/ct"], ["p1/mask", "p2/mask", "é :/mask"])
    assert [one.case for one in found.pairs] == ["p1", "p2", "é :"]
    assert len({one.case.casefold() for one in pair(["a/x", "b/x"], ["a/x", "b/x"]).pairs}) == 2


@pytest.mark.parametrize(("name", "expected"), [("a_seg", True), ("masks/a", True), ("a", False), ("message_1", False)])
def test_words_for_masks(name, expected):
    assert is_mask_name(name) == expected
