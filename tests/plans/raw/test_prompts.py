"""The phrasings of the labels."""

import json
from pathlib import Path

import pytest

from plans.errors import UserError
from plans.names import normalise, same_names
from plans.plan import LabelPlan
from plans.raw.dataset import Dataset
from plans.raw.prompts import Prompts, default_prompts, is_default, names_sides, read_prompt_file, read_prompts
from textdiffseg.files import write_record


def dataset_of(*names: str) -> Dataset:
    labels = tuple(LabelPlan(name=name, value=value) for value, name in enumerate(names, start=1))
    return Dataset(
        folder=Path("raw/Dataset007_Abdomen"),
        name="Dataset007_Abdomen",
        title="Abdomen",
        channels=("CT",),
        labels=labels,
        file_ending=".nii.gz",
        cases=(),
    )


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("LeftKidney", "left kidney"),
        ("left_kidney", "left kidney"),
        ("  Left   KIDNEY ", "left kidney"),
        ("T2W", "t2w"),
        ("FLAIRLesion", "flair lesion"),
        ("MRI", "mri"),
        ("anterior-hippocampus", "anterior hippocampus"),
        ("anterior hippocampus.", "anterior hippocampus"),
        ("\u201cAnterior\u00a0hippocampus\u201d", "anterior hippocampus"),
        ("anterior\u2013hippocampus (left)", "anterior hippocampus left"),
        ("Crohn's_disease", "crohns disease"),
        ("n\u0303 \u00f1", "\u00f1 \u00f1"),
        ("grade 2+", "grade 2+"),
        ("--", ""),
    ],
)
def test_normalise(phrase, words):
    assert normalise(phrase) == words
    assert normalise(normalise(phrase)) == words


def test_default_is_made_from_names():
    prompts = default_prompts(dataset_of("LeftKidney", "spleen"))
    assert prompts.labels == {"LeftKidney": ("left kidney",), "spleen": ("spleen",)}
    assert prompts.scan == "CT of abdomen"


@pytest.mark.parametrize(
    ("channels", "scan"),
    [
        (("MRI 1", "MRI 2"), "MRI of abdomen"),
        (("MRI 1", "CT", "MRI 2"), "MRI and CT of abdomen"),
        (("T1", "T2"), "T1 and T2 of abdomen"),
        (("T 1", "T 2"), "T 1 and T 2 of abdomen"),
        (("CT", "MRI 2"), "CT and MRI 2 of abdomen"),
    ],
)
def test_numbers_that_tell_channels_of_one_kind_apart_are_not_words(channels, scan):
    assert default_prompts(dataset_of("spleen").model_copy(update={"channels": channels})).scan == scan


def test_labels_with_equal_spelling_are_refused():
    with pytest.raises(UserError, match="the labels 'LeftKidney' and 'left_kidney' read the same"):
        default_prompts(dataset_of("LeftKidney", "left_kidney"))


def test_write_and_read(tmp_path):
    prompts = Prompts(scan="CT", labels={"spleen": ("spleen", "lien")})
    write_record(tmp_path / "prompts.json", prompts)
    assert read_prompts(tmp_path / "prompts.json", dataset_of("spleen")) == prompts


def test_prompts_that_nobody_edited_follow_the_labels(tmp_path):
    path, before, now = tmp_path / "prompts.json", dataset_of("spleen", "LeftKidney"), dataset_of("spleen", "liver")
    made = default_prompts(before)
    write_record(path, made)
    assert is_default(made, now)
    assert read_prompts(path, now) == default_prompts(now)
    for change in (
        {"scan": "CT of the abdomen"},
        {"labels": {"spleen": ("spleen", "lien"), "LeftKidney": ("left kidney",)}},
        {"labels": {"spleen": ("spleen",), "LeftKidney": ("Left kidney",)}},
    ):
        edited = made.model_copy(update=change)
        write_record(path, edited)
        assert not is_default(edited, now)
        with pytest.raises(UserError, match=r"labels\.LeftKidney: the data set has no such label"):
            read_prompts(path, now)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"spleen": ["a"], "liver": ["A"]}}, "names both"),
        (
            {"labels": {"spleen": ["The_Liver", "liver"], "liver": ["x"]}},
            "'liver' of 'spleen' is the name of the label",
        ),
        ({"labels": {"spleen": [], "liver": ["x"]}}, "labels.spleen has no phrasing"),
        ({"labels": {"spleen": ["a-b"], "liver": ["a b."]}}, "names both"),
        ({"labels": {"spleen": ["a"], "Spleen": ["b"]}}, "the labels 'spleen' and 'Spleen' read the same"),
        ({"labels": {"spleen": [" "], "liver": ["x"]}}, "labels.spleen has an empty phrasing"),
        ({"labels": {"spleen": ["x"]}}, "labels.liver: missing"),
        ({"labels": {"spleen": ["x"], "liver": ["y"], "lung": ["z"]}}, "labels.lung: the data set has no such label"),
        ({"scan": 3}, "scan:"),
        ({"version": 2}, "version:"),
        ({"sacn": "CT"}, "sacn:"),
    ],
)
def test_faults_name_file_and_field(tmp_path, change, words):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"version": 1, "scan": "CT", "labels": {"spleen": ["s"], "liver": ["l"]}} | change))
    with pytest.raises(UserError) as caught:
        read_prompts(path, dataset_of("spleen", "liver"))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def write_answers(path: Path, labels: dict, **other) -> Path:
    path.write_text(json.dumps({"version": 1, "labels": labels} | other))
    return path


def test_answers_keep_their_order(tmp_path):
    labels = {"b": {"phrase": "Spleen", "value": 9}, "a": {"phrase": "liver", "value": 2}}
    answers = read_prompt_file(write_answers(tmp_path / "answers.json", labels))
    assert [(name, one.phrase, one.value) for name, one in answers.labels.items()] == [
        ("b", "Spleen", 9),
        ("a", "liver", 2),
    ]


def test_answers_with_equal_phrases_or_values_are_listed_together(tmp_path):
    labels = {
        "a": {"phrase": "liver", "value": 1},
        "b": {"phrase": "LIVER", "value": 2},
        "c": {"phrase": "_", "value": 2},
    }
    path = write_answers(tmp_path / "answers.json", labels)
    with pytest.raises(UserError) as caught:
        read_prompt_file(path)
    assert [line.partition(f"{path}: ")[2].partition(":")[0] for line in caught.value.lines] == [
        "labels.b.phrase",
        "labels.c.phrase is empty",
        "labels.c.value",
    ]
    labels = {"Liver": {"phrase": "liver", "value": 1}, "liver": {"phrase": "spleen", "value": 2}}
    with pytest.raises(UserError, match="labels: 'Liver' and 'liver' read the same"):
        read_prompt_file(write_answers(path, labels))


@pytest.mark.parametrize(
    ("labels", "other", "fields"),
    [
        ({"a": {"phrase": "", "value": 0}, "b": "liver"}, {}, ["labels.a.phrase", "labels.a.value", "labels.b"]),
        ({"a": {"phrase": "liver"}}, {"version": "1"}, ["version", "labels.a.value"]),
        ({"a": {"phrase": "liver"}}, {"version": 2}, ["version"]),
        ({}, {}, ["labels"]),
        ({"a": {"phrase": "liver", "value": 1, "colour": "red"}}, {}, ["labels.a.colour"]),
    ],
)
def test_answers_that_do_not_fit_are_reported_by_field(tmp_path, labels, other, fields):
    path = write_answers(tmp_path / "answers.json", labels, **other)
    with pytest.raises(UserError) as caught:
        read_prompt_file(path)
    assert [line.split(": ")[1] for line in caught.value.lines] == fields


@pytest.mark.parametrize(
    "labels",
    [
        ("LeftKidney", "RightKidney"),
        ("left kidney", "right kidney"),
        ("kidneyleft", "kidneyright"),
        ("kidney_L", "kidney_R"),
        ("hippocampusL", "hippocampusR"),
        ("lh.amygdala", "rh.amygdala"),
        ("rib_left_1", "spine", "rib_right_1"),
        ("LV", "MYO", "RV"),
        ("Niere links", "Niere rechts"),
        ("linke Niere", "rechte Niere"),
        ("linker_nier", "rechter_nier"),
        ("rein_gauche", "rein_droit"),
        ("riñón izquierdo", "riñón derecho"),
        ("rkid", "lkid"),
        ("Lkidney", "Rkidney"),
        ("kidneyl", "kidneyr"),
        ("Parotid_Sin", "Parotid_Dex"),
        ("parotide sx", "parotide dx"),
        ("vänster lunga", "höger lunga"),
        ("левая почка", "правая почка"),
        ("左肾", "右肾"),
        ("Kidney left", "right kidney"),
    ],
)
def test_labels_that_name_sides_are_recognised(labels):
    assert names_sides(labels)


@pytest.mark.parametrize(
    "labels",
    [
        ("anterior", "posterior"),
        ("lung", "left lung"),
        ("rib_left_1", "rib_right_2"),
        ("liver", "river"),
        ("L1", "L2", "T1"),
        ("LeftKidney", "left kidney"),
        ("l", "liver"),
        ("links", "recto"),
        ("left lung", "lung left"),
        ("renal pelvis", "lesion"),
    ],
)
def test_other_labels_are_not_taken_for_sides(labels):
    assert not names_sides(labels)


@pytest.mark.parametrize("name", ["", " ", ".."])
def test_an_answer_needs_a_name(tmp_path, name):
    path = write_answers(tmp_path / "answers.json", {name: {"phrase": "liver", "value": 1}})
    with pytest.raises(UserError, match="holds no letter or digit"):
        read_prompt_file(path)


@pytest.mark.parametrize("invisible", ["\u00ad", "\u200b", "\ufeff", "\u2060"])
def test_names_that_look_alike_are_equal(invisible):
    assert normalise(f"li{invisible}ver{invisible}") == "liver"
    assert normalise(f"left{invisible}Kidney") == "left kidney"
    assert same_names(("liver", f"liver{invisible}")) == [("liver", f"liver{invisible}")]
