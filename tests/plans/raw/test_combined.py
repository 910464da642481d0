"""Combinations of data sets. Every case keeps its own files, values and annotation."""

from pathlib import Path

import pytest

from plans.errors import UserError
from plans.plan import LabelPlan
from plans.raw.annotation import Annotation
from plans.raw.combined import cases_of, combine, combine_prompts, combined_name, keeps_values
from plans.raw.dataset import Case, Dataset
from plans.raw.prompts import Prompts, default_prompts


def dataset(name, labels, cases, channels=("CT",), ending=".nii.gz", **annotation) -> Dataset:
    """`cases`: id -> group; `annotation` replaces fields of every case's."""
    own = Annotation(**({"values": labels, "annotated": tuple(labels)} | annotation))
    return Dataset(
        folder=Path("raw") / name,
        name=name,
        title=name.partition("_")[2],
        channels=channels,
        labels=tuple(LabelPlan(name=label, value=value) for label, value in labels.items()),
        file_ending=ending,
        cases=tuple(
            Case(id=case, images=(Path(name, case),), label=Path(name), group=group, annotation=own)
            for case, group in cases.items()
        ),
    )


LIVER = dataset("Dataset004_Liver", {"liver": 1, "Liver_Tumour": 2}, {"a": "p", "b": None}, ignore=9)
SPLEEN = dataset("Dataset101_Spleen", {"spleen": 7, "liver": 1}, {"c": "p"}, ending=".nrrd", annotated=("spleen",))


def test_the_order_of_the_data_sets_does_not_matter():
    assert combined_name([SPLEEN, LIVER]) == "Dataset004+101_Liver+Spleen"
    assert combine([SPLEEN, LIVER], Path("x")) == combine([LIVER, SPLEEN], Path("x"))


def test_labels_with_the_same_name_are_one_label_and_keep_values_that_are_unique():
    both = combine([LIVER, SPLEEN], Path("x"))
    assert [(label.name, label.value) for label in both.labels] == [("liver", 1), ("Liver_Tumour", 2), ("spleen", 7)]
    assert keeps_values(both)
    assert both.channels == ("CT",)
    assert both.file_ending == ".nii.gz"
    assert both.known_together == ((1, 2), (3,)), "the liver's values in SPLEEN are not annotated"
    assert LIVER.known_together == ()


@pytest.mark.parametrize("labels", [{"spleen": 2}, {"liver": 2, "spleen": 3}])
def test_values_that_are_not_unique_are_replaced(labels):
    both = combine([LIVER, dataset("Dataset101_Spleen", labels, {"c": None})], Path("x"))
    assert [(label.name, label.value) for label in both.labels] == [("liver", 1), ("Liver_Tumour", 2), ("spleen", 3)]
    assert not keeps_values(both)


def test_cases_are_annotated_with_their_own_labels_under_their_own_values():
    other = dataset("Dataset101_Other", {"liver tumour": 5, "spleen": 1}, {"c": "p"}, absent=("spleen",))
    first, _, last = combine([LIVER, other], Path("x")).cases
    assert first.annotation == LIVER.cases[0].annotation
    names = ("Liver_Tumour", "spleen")
    assert last.annotation == Annotation(values={"Liver_Tumour": 5, "spleen": 1}, annotated=names, absent=("spleen",))
    assert last.images == other.cases[0].images
    assert combine([LIVER, SPLEEN], Path("x")).cases[2].annotation.annotated == ("spleen",)


def test_ids_get_a_prefix_only_if_one_is_shared_and_groups_always():
    both = combine([LIVER, SPLEEN], Path("x"))
    assert [(case.id, case.group) for case in both.cases] == [("a", "004_p"), ("b", None), ("c", "101_p")]
    again = dataset("Dataset101_Spleen", {"spleen": 7}, {"a": None, "c": None})
    assert [case.id for case in combine([LIVER, again], Path("x")).cases] == ["004_a", "004_b", "101_a", "101_c"]
    elsewhere = dataset("mine", {"spleen": 7}, {"a": None})
    both = combine([LIVER, elsewhere], Path("x"))
    assert both.name == "Liver+mine"
    assert [case.id for case in both.cases] == ["Dataset004_Liver_a", "Dataset004_Liver_b", "mine_a"]
    assert [list(part) for part in cases_of([elsewhere, LIVER])] == [["a", "b"], ["a"]]


def test_prompts_are_joined_and_a_phrase_for_two_labels_is_refused():
    words = [default_prompts(LIVER), Prompts(scan="CT", labels={"spleen": ("spleen",), "liver": ("Liver", "hepar")})]
    joined = combine_prompts([LIVER, SPLEEN], words)
    assert joined.labels == {
        "liver": ("liver", "hepar"),
        "Liver_Tumour": ("liver tumour",),
        "spleen": ("spleen",),
    }
    assert joined.scan == "CT of liver; CT"
    assert combine_prompts([SPLEEN, LIVER], words[::-1]) == joined
    for phrase, message in (("liver tumour", "is the name of the label 'Liver_Tumour'"), ("growth", "names both")):
        mine = Prompts(scan="CT", labels={"liver": ("liver",), "Liver_Tumour": ("growth",)})
        other = Prompts(scan="CT", labels={"spleen": (phrase,), "liver": ("hepar",)})
        with pytest.raises(UserError, match=message):
            combine_prompts([LIVER, SPLEEN], [mine, other])


def test_channels_must_agree_unless_each_has_one():
    mri = dataset("Dataset101_Head", {"skull": 3}, {"c": None}, channels=("MRI",))
    assert combine([LIVER, mri], Path("x")).channels == ("CT or MRI",)
    same = dataset("Dataset101_Head", {"skull": 3}, {"c": None}, channels=("ct",))
    assert combine([LIVER, same], Path("x")).channels == ("CT",)
    for channels in (("CT", "PET"), ("PET", "CT")):
        pair = dataset("Dataset101_Head", {"skull": 3}, {"c": None}, channels=channels)
        with pytest.raises(UserError, match=r"channel_names differ: Dataset004_Liver has CT; Dataset101_Head has"):
            combine([LIVER, pair], Path("x"))


def test_ambiguous_data_sets_are_refused():
    with pytest.raises(UserError, match="Dataset004_Liver is named twice"):
        combine([LIVER, LIVER], Path("x"))
    twice = dataset("Dataset101_Two", {"left kidney": 1, "LeftKidney": 2}, {"c": None})
    with pytest.raises(UserError, match="'left kidney' and 'LeftKidney' would be one label"):
        combine([LIVER, twice], Path("x"))


def test_texts_follow_their_cases():
    other = dataset("Dataset101_Spleen", {"spleen": 7}, {"a": None})
    with_texts = other.model_copy(
        update={"cases": tuple(c.model_copy(update={"text": "swollen"}) for c in other.cases)}
    )
    joined = combine([LIVER, with_texts], Path("x"))
    assert {case.id: case.text for case in joined.cases if case.text} == {"101_a": "swollen"}


def test_labels_that_overlap_are_not_combined():
    nested = SPLEEN.model_copy(update={"regions": ((7,), (1, 7))})
    with pytest.raises(UserError, match=r"Dataset101_Spleen: its labels overlap .* Train this data set alone"):
        combine([LIVER, nested], Path("x"))


def test_ids_that_become_too_long_are_refused():
    """Cases are stored and deleted under their ids."""
    first, second = (dataset(name, {"liver": 1}, {"x" * 195: None}) for name in ("Dataset004_A", "Dataset101_B"))
    assert combine([first, dataset("Dataset101_B", {"liver": 1}, {"b": None})], Path("x")).cases[0].id == "x" * 195
    with pytest.raises(UserError, match="expected at most 200 bytes"):
        combine([first.model_copy(update={"name": "elsewhere"}), second], Path("x"))
