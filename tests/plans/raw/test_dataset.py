"""Raw data sets in every format, and one line per fault. The files are empty."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest

from plans.errors import UserError
from plans.raw.annotation import Annotation
from plans.raw.dataset import Dataset, read_dataset

HEADER = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


TUMOUR = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3},
    "regions_class_order": [1, 2, 3],
}


def write(folder: Path, header: dict, *files: str) -> Path:
    """A folder with a dataset.json and empty files."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(header))
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    return folder


def pairs(*cases: str, suffix: str = "_0000", ending: str = ".nii.gz") -> list[str]:
    images = [f"imagesTr/{case}{suffix}{ending}" for case in cases]
    return images + [f"labelsTr/{case}{ending}" for case in cases]


def test_a_folder_whose_name_cannot_be_printed_is_refused(tmp_path):
    folder = write(tmp_path / "Dataset007_\x1b[31m", HEADER, *pairs("a", "b"))
    with pytest.raises(UserError, match="printable characters"):
        read_dataset(folder)


def faults(folder: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        read_dataset(folder)
    return caught.value.lines


def test_nnunet(tmp_path):
    dataset = read_dataset(
        write(tmp_path / "Dataset004_Hippocampus", HEADER, *pairs("b", "a"), "imagesTs/c_0000.nii.gz")
    )
    assert (dataset.name, dataset.title) == ("Dataset004_Hippocampus", "Hippocampus")
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].images == (tmp_path / "Dataset004_Hippocampus/imagesTr/a_0000.nii.gz",)
    assert [(label.name, label.value) for label in dataset.labels] == [("anterior", 1), ("posterior", 2)]
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset


def test_plain_names_need_one_channel_and_may_end_in_four_digits(tmp_path):
    dataset = read_dataset(write(tmp_path / "d", HEADER, *pairs("scan_2019", "x", suffix="")))
    assert [case.id for case in dataset.cases] == ["scan_2019", "x"]
    assert dataset.cases[0].images[0].name == "scan_2019.nii.gz"


def test_several_channels(tmp_path):
    header = HEADER | {"channel_names": {"1": "T2", "0": "T1"}}
    folder = write(tmp_path / "d", header, *pairs("a"), "imagesTr/a_0001.nii.gz")
    dataset = read_dataset(folder)
    assert dataset.channels == ("T1", "T2")
    assert [path.name for path in dataset.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_decathlon_with_all_channels_in_one_file(tmp_path):
    header = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumor"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/t.nii.gz"],
    }
    files = [*pairs("a", suffix=""), "imagesTr/._a.nii.gz", "imagesTs/t.nii.gz", "labelsTr/._a.nii.gz"]
    dataset = read_dataset(write(tmp_path / "Task01_BrainTumour", header, *files))
    assert dataset.title == "BRATS"
    assert dataset.channels == ("FLAIR", "T1w")
    assert [case.id for case in dataset.cases] == ["a"]
    assert len(dataset.cases[0].images) == 1
    assert [(label.name, label.value) for label in dataset.labels] == [("edema", 1), ("tumor", 2)]


def test_a_plain_name_beside_channels_is_a_fault(tmp_path):
    folder = write(tmp_path / "d", HEADER, *pairs("a"), "imagesTr/a.nii.gz")
    with pytest.raises(UserError, match=r"a\.nii\.gz and a_0000\.nii\.gz are files of one case"):
        read_dataset(folder)


def test_nnunet_s_list_of_files_and_groups(tmp_path):
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    windows = {"images": [".\\imagesTr\\b_0000.nii.gz"], "label": "labelsTr\\b.nii.gz"}
    header = HEADER | {"dataset": {"case a": entry, "case b": windows}, "group": {"case a": 7}}
    dataset = read_dataset(write(tmp_path / "d", header, *pairs("a", "b")))
    assert [(case.id, case.group) for case in dataset.cases] == [("case a", "7"), ("case b", None)]


def training_list(*pairs):
    """A `dataset.json` that lists images and labels under `training`, as the Decathlon and MONAI do."""
    return HEADER | {"training": [{"image": image, "label": label, "fold": 0} for image, label in pairs]}


def test_a_training_list_pairs_images_and_labels_of_other_names(tmp_path):
    """As in MONAI's lists. By their names, the scans would get each other's labels."""
    files = {"a": "b", "b": "a"}
    listed = training_list(*((f"./imagesTr/{one}.nii.gz", f"labelsTr\\{other}.nii.gz") for one, other in files.items()))
    dataset = read_dataset(
        write(tmp_path / "d", listed, *(f"{kind}Tr/{case}.nii.gz" for kind in ("images", "labels") for case in files))
    )
    assert {case.id: case.label.name for case in dataset.cases} == {"a": "b.nii.gz", "b": "a.nii.gz"}


def test_a_training_list_may_hold_lists(tmp_path):
    """An image per channel, or a label per rater. The case has the name of what is one file."""
    channels, raters = ["imagesTr/x.nii.gz", "imagesTr/y.nii.gz"], ["labelsTr/z.nii.gz", "labelsTr/z2.nii.gz"]
    two = HEADER | {"channel_names": {"0": "T1", "1": "T2"}, "training": [{"image": channels, "label": raters[0]}]}
    (case,) = read_dataset(write(tmp_path / "channels", two, *channels, *raters)).cases
    assert (case.id, [path.name for path in case.images]) == ("z", ["x.nii.gz", "y.nii.gz"])
    (case,) = read_dataset(write(tmp_path / "raters", training_list((channels[0], raters)), *channels, *raters)).cases
    assert (case.id, [path.name for path in case.references]) == ("x", ["z.nii.gz", "z2.nii.gz"])


def test_faults_of_a_training_list(tmp_path):
    pair, twin = ("one/image.nii.gz", "one/label.nii.gz"), ("two/image.nii.gz", "two/label.nii.gz")
    listed = training_list(pair, twin, (pair[0], None))
    with pytest.raises(UserError) as caught:
        read_dataset(write(tmp_path / "d", listed, *pair, *twin))
    source = f"{tmp_path / 'd' / 'dataset.json'}: training: entry"
    assert caught.value.lines[:2] == (
        f"{source} 1: an earlier entry is case image, too. Give each case its own file name, or list the files under "
        '"dataset", by case.',
        f"{source} 2: expected image and label. Add them, or remove the entry.",
    )
    numbered = write(tmp_path / "numbered", training_list((pair[0], 5)), *pair)
    first, *_ = faults(numbered)
    assert first == f"{numbered}/dataset.json: training.image: expected image (a path) and label (a path)."


def test_unicode_forms_of_names_make_no_difference(tmp_path):
    decomposed, composed = (normalize(form, "fä") for form in ("NFD", "NFC"))
    write(tmp_path / "d", HEADER, f"imagesTr/{decomposed}_0000.nii.gz", f"labelsTr/{composed}.nii.gz")
    assert [case.id for case in read_dataset(tmp_path / "d").cases] == [composed]


def test_listed_files_may_name_nnunet_s_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    files = {"images": ["$nnUNet_raw/x/a_0000.nii.gz"], "label": "${nnUNet_raw}/x/a.nii.gz"}
    write(tmp_path / "d", HEADER | {"dataset": {"a": files}})
    (tmp_path / "x").mkdir()
    for name in ("a_0000.nii.gz", "a.nii.gz"):
        (tmp_path / "x" / name).touch()
    assert read_dataset(tmp_path / "d").cases[0].images == (tmp_path / "x" / "a_0000.nii.gz",)


def test_label_values_may_have_gaps(tmp_path):
    header = HEADER | {"labels": {"background": 0, "tumour": 255, "organ": 7}}
    labels = read_dataset(write(tmp_path / "d", header, *pairs("a"))).labels
    assert [(label.name, label.value) for label in labels] == [("organ", 7), ("tumour", 255)]


def test_by_default_every_label_is_annotated(tmp_path):
    (case,) = read_dataset(write(tmp_path / "d", HEADER, *pairs("a"))).cases
    assert case.annotation == Annotation(values={"anterior": 1, "posterior": 2}, annotated=("anterior", "posterior"))


def test_the_ignore_label_is_not_a_label(tmp_path):
    header = HEADER | {"labels": {"background": 0, "ignore": 1, "organ": 2}}
    dataset = read_dataset(write(tmp_path / "d", header, *pairs("a")))
    assert [(label.name, label.value) for label in dataset.labels] == [("organ", 2)]
    assert dataset.cases[0].annotation == Annotation(values={"organ": 2}, ignore=1, annotated=("organ",))


def test_labels_that_overlap_keep_their_order_and_written_values(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "ignore": 9}
    header = HEADER | {"labels": labels, "regions_class_order": [1, 3], "annotated": {"b": ["whole"]}}
    dataset = read_dataset(write(tmp_path / "d", header, *pairs("a", "b")))
    assert [(label.name, label.value) for label in dataset.labels] == [("whole", 1), ("core", 3)]
    assert dataset.regions == ((1, 2, 3), (2, 3))
    annotation = dataset.cases[1].annotation
    assert annotation == Annotation(values={"whole": (1, 2, 3), "core": (2, 3)}, ignore=9, annotated=("whole",))
    assert annotation.regions == dataset.regions
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset


def test_a_list_of_one_value_is_that_value(tmp_path):
    header = HEADER | {"labels": {"background": [0], "a": [2], "b": 1}}
    dataset = read_dataset(write(tmp_path / "d", header, *pairs("a")))
    assert [(label.name, label.value) for label in dataset.labels] == [("b", 1), ("a", 2)]
    assert dataset.regions is None
    assert dataset.cases[0].annotation.regions is None


def test_annotated_and_absent_labels_for_all_cases_or_per_case(tmp_path):
    header = HEADER | {"annotated": ["anterior"], "absent": {"b": ["posterior"], "t": ["posterior"]}}
    dataset = read_dataset(write(tmp_path / "d", header, *pairs("a", "b"), "imagesTs/t_0000.nii.gz"))
    labels = [(case.annotation.annotated, case.annotation.absent) for case in dataset.cases]
    assert labels == [(("anterior",), ()), (("anterior",), ("posterior",))]
    header = HEADER | {"annotated": {"a": ["posterior"]}, "absent": ["anterior"]}
    dataset = read_dataset(write(tmp_path / "e", header, *pairs("a", "b")))
    labels = [(case.annotation.annotated, case.annotation.absent) for case in dataset.cases]
    assert labels == [(("posterior",), ("anterior",)), (("anterior", "posterior"), ("anterior",))]


def test_all_missing_files_are_reported_together(tmp_path):
    header = HEADER | {"channel_names": {"0": "T1", "1": "T2"}}
    folder = write(tmp_path / "d", header, *pairs("a", "b"), "imagesTr/b_0001.nii.gz", "imagesTr/b_0002.nii.gz")
    (folder / "labelsTr/b.nii.gz").unlink()
    (folder / "labelsTr/c.nii.gz").touch()
    lines = faults(folder)
    assert len(lines) == 4
    for line, words in zip(
        lines,
        ("c.nii.gz has no image", "a_0001.nii.gz is missing", "b_0002.nii.gz", "b.nii.gz is missing"),
        strict=True,
    ):
        assert words in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, ("regions_class_order: missing", "writes for whole")),
        (TUMOUR | {"regions_class_order": [1, 2]}, ("regions_class_order: expected 3 values", "whole, core, rim")),
        (TUMOUR | {"regions_class_order": [1, 2, 5]}, ("regions_class_order: 5 is not the value", "one of 1, 2, 3")),
        (TUMOUR | {"regions_class_order": [1, 2, 2]}, ("regions_class_order: 2 is listed twice",)),
        (
            {"labels": {"background": 0, "core": [2, 3], "whole": [1, 2, 3]}, "regions_class_order": [2, 1]},
            ("regions_class_order: core would never be written: later labels (whole)", "Put it after whole"),
        ),
        ({"labels": {"background": 0, "left-kidney": 1, "Left kidney": 2}}, ("labels: 'left-kidney' and 'Left kid",)),
        ({"labels": {"background": 0, "_": 1}}, ("labels: '_': expected a name with letters",)),
        (TUMOUR | {"labels": TUMOUR["labels"] | {"rim": [2, 3]}}, ("core, rim have the same values, 2, 3",)),
        (TUMOUR | {"labels": TUMOUR["labels"] | {"rim": [0, 3]}}, ("labels.rim: holds 0",)),
        (TUMOUR | {"labels": TUMOUR["labels"] | {"ignore": [8, 9]}}, ("labels.ignore: expected one value", "[8, 9]")),
        ({"labels": {"background": 0, "a": []}}, ("labels.a: ", "an empty list")),
        ({"labels": {"background": 0, "a": 1, "ignore": 1, "b": 2}}, ("a, ignore share the value 1",)),
        ({"labels": {"background": 0, "ignore": 1}}, ("Name at least one",)),
        ({"labels": {"ignore": 0, "a": 1}}, ('Add "background": 0',)),
        ({"labels": {"background": 0, "a": 1, "ignore": 2, "Ignore": 3}}, ("ignore, Ignore all mean",)),
        ({"annotated": ["posterior", "liver"]}, ("annotated: 'liver'", "it has anterior, posterior")),
        ({"absent": {"a": ["liver"]}}, ("absent.a: 'liver' is not a label",)),
        ({"annotated": {"b": ["anterior"]}}, ("annotated.b: no such case",)),
        ({"annotated": {"a": "anterior"}}, ("annotated.a: expected a list", "'anterior'")),
        ({"annotated": {"a": []}}, ("annotated: no label is named for a",)),
        ({"absent": 3}, ("absent: expected a list of label names, or one per case, found 3",)),
        ({"labels": {"a": 1}}, ('Add "background": 0',)),
        ({"labels": {"background": 0}}, ("Name at least one",)),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, ("a, b share the value 1",)),
        ({"labels": {"background": 0, "a": "one"}}, ("labels.a: expected a whole number", "'one'")),
        ({"labels": {"background": 0, "a": 2**31}}, ("labels.a: expected at most", "2147483648")),
        ({"labels": [0, 1]}, ("labels: expected names and values in braces", "[0, 1]")),
        ({"labels": {}}, ("labels: missing. Name the value of each label",)),
        ({"labels": {"background": 1, "a": 0, "b": 2}}, ("labels.background: expected 0, found 1",)),
        (TUMOUR | {"labels": TUMOUR["labels"] | {"none": 0, "background": 4}}, ("labels.background: expected 0, fo",)),
        ({"channel_names": {"0": " "}}, ("channel_names.0: expected a name, found ' '",)),
        ({"channel_names": None}, ("channel_names: missing",)),
        ({"channel_names": {"1": "MRI"}}, ("channel_names: expected the keys 0 to 0, found 1",)),
        ({"file_ending": ".png"}, ("file_ending", ".nii.gz", "'.png'")),
        ({"group": {"z": "patient 1"}}, ("group.z: no such case",)),
    ],
)
def test_faults_of_dataset_json_name_the_field(tmp_path, change, words):
    (line,) = faults(write(tmp_path / "d", HEADER | change, *pairs("a")))
    assert "dataset.json" in line
    assert all(word in line for word in words)


def test_several_faults_of_dataset_json_are_reported_together(tmp_path):
    header = HEADER | {"labels": {"background": 0, "a": [1, "x"], "b": -1}, "file_ending": ".png"}
    assert len(faults(write(tmp_path / "d", header, *pairs("a")))) == 3
    header = HEADER | {"annotated": {"a": ["liver", "spleen"], "z": []}, "absent": ["heart"]}
    assert len(faults(write(tmp_path / "e", header, *pairs("a")))) == 5
    labels = {"whole": [0, 1, 2], "core": [2, 9], "ignore": 9}
    lines = faults(write(tmp_path / "f", HEADER | {"labels": labels, "regions_class_order": [1, 7, 3]}, *pairs("a")))
    for line, words in zip(lines, ("no background", "holds 0", "value of ignore", "expected 2 values"), strict=True):
        assert words in line


def test_faults_of_the_folder_are_reported(tmp_path):
    assert "is not a folder" in faults(tmp_path / "missing")[0]
    (tmp_path / "empty").mkdir()
    assert "dataset.json does not exist; the folder holds nothing" in faults(tmp_path / "empty")[0]
    assert "imagesTr does not exist" in faults(write(tmp_path / "bare", HEADER))[0]
    assert "holds no file ending with .nii.gz" in faults(write(tmp_path / "other", HEADER, "imagesTr/a.txt"))[0]
    broken = write(tmp_path / "broken", HEADER)
    (broken / "dataset.json").write_text("{")
    assert "is not valid JSON" in faults(broken)[0]


def test_texts_belong_to_cases(tmp_path):
    files = (*pairs("a", "b"), "imagesTs/c_0000.nii.gz", "texts/a.txt", "texts/c.txt")
    folder = write(tmp_path / "d", HEADER, *files)
    (folder / "texts/a.txt").write_text("a large\nlesion")
    assert [case.text for case in read_dataset(folder).cases] == ["a large lesion", None]
    for name in ("a_0000.txt", "e.txt"):
        (folder / "texts" / name).write_text("whose?")
    (folder / "labelsTr/b.nii.gz").unlink()
    lines = faults(folder)
    assert len(lines) == 3, "with all other faults"
    assert sum("belongs to no case" in line for line in lines) == 2


@pytest.mark.parametrize(("name", "cases"), [("Dataset004_Hippocampus", 208), ("Dataset101_SoftTissueSarcoma", 9)])
def test_real_data(shared_data, name, cases):
    dataset = read_dataset(shared_data / name)
    assert len(dataset.cases) == cases


def test_fields_and_encodings_of_other_tools_are_accepted(tmp_path):
    odd = {"name": None, "description": ["a list"], "regions_class_order": [1, 2]}
    listed = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz", "fold": 0} for case in "ab"]
    folder = write(tmp_path / "Dataset001_X", HEADER | odd | {"training": listed}, *pairs("a", "b"))
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    dataset = read_dataset(folder)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.regions is None


@pytest.mark.parametrize(
    "case", ["../../../precious/notes", "/precious/notes", "", ".x", "a\0b", "a\nb", "c:\\x", "x" * 201, "ä" * 101]
)
def test_a_case_id_that_is_not_a_plain_file_name_is_refused(tmp_path, write_raw, case):
    """Cases are stored and deleted under their ids."""
    folder = write_raw(tmp_path)
    files = {"images": ["imagesTr/tiny_00_0000.nii.gz"], "label": "labelsTr/tiny_00.nii.gz"}
    others = {"images": ["imagesTr/tiny_01_0000.nii.gz"], "label": "labelsTr/tiny_00.nii.gz"}  # of one atlas
    header = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(header | {"dataset": {"fine": others, case: files}}))
    with pytest.raises(UserError, match=r"cannot be (a case id: expected one plain|printed)") as error:
        read_dataset(folder)
    assert len(error.value.lines) == 1
    (folder / "dataset.json").write_text(json.dumps(header | {"dataset": {"ä" * 100: files, "a b-c+d (2)": others}}))
    assert len(read_dataset(folder).cases) == 2
    for twice in ({"a": files, "b": files}, {"a": files | {"label": files["images"][0]}}):
        (folder / "dataset.json").write_text(json.dumps(header | {"dataset": twice}))
        with pytest.raises(UserError, match=r"tiny_00_0000\.nii\.gz is a file of case a already"):
            read_dataset(folder)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "liver": 10**400},
        {"background": 0, "liver": 2**31},
        {"background": 0, "liver": "٣"},
        {"background": 0, "liver": float("inf")},
        {"background": 0, "liver": [1, float("nan")]},
        {"0": "background", "²": "liver"},
        {"0": "background", "9" * 5000: "liver"},
        {"background": 0, "\ud800": 1},
        {"background": 0, "liver\x1b[31m": 1},
        {"background": 0, "liver\nerror: no": 1},
    ],
)
def test_a_label_that_cannot_be_stored_is_one_line(tmp_path, write_raw, labels):
    folder = write_raw(tmp_path)
    header = json.loads((folder / "dataset.json").read_text()) | {"labels": labels}
    (folder / "dataset.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"dataset\.json: labels\.") as error:
        read_dataset(folder)
    assert len(error.value.lines) == 1


def test_unknown_fields_of_dataset_json_are_ignored(tmp_path, write_raw):
    folder = write_raw(tmp_path)
    header = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(header | {"description": "two\nlines", "mean": float("nan")}))
    assert len(read_dataset(folder).cases) == 4


def test_endings_may_be_mixed(tmp_path):
    files = [*pairs("a"), *pairs("b", ending=".nii"), *pairs("c", ending=".NII.GZ"), "imagesTr/d_0000.mha"]
    dataset = read_dataset(write(tmp_path / "d", HEADER | {"numTraining": 4}, *files, "labelsTr/d.nrrd"))
    assert [case.id for case in dataset.cases] == ["a", "b", "c", "d"]
    assert [case.images[0].name for case in dataset.cases] == [
        "a_0000.nii.gz",
        "b_0000.nii",
        "c_0000.NII.GZ",
        "d_0000.mha",
    ]
    assert dataset.cases[3].label.name == "d.nrrd"
    assert dataset.notes == ()
    header = {key: value for key, value in HEADER.items() if key != "file_ending"}
    assert read_dataset(write(tmp_path / "e", header, *pairs("c", ending=".NII.GZ"))).file_ending == ".nii.gz"
    header = HEADER | {"file_ending": ".NII.GZ"}
    assert read_dataset(write(tmp_path / "f", header, *pairs("c"))).file_ending == ".nii.gz"


@pytest.mark.parametrize("other", ["imagesTr/a_0000.nii", "labelsTr/a.NII.GZ", "labelsTr/a.nrrd"])
def test_files_that_differ_only_in_the_ending_are_refused(tmp_path, other):
    (line,) = faults(write(tmp_path / "d", HEADER, *pairs("a"), other))
    assert "would be one case" in line
    assert Path(other).name in line


def test_files_that_are_not_read_are_listed_and_counted(tmp_path):
    strange = ["imagesTr/b_0000.mgz", "imagesTr/c.img", "imagesTr/c.mnc", "labelsTr/b.mgz"]
    folder = write(tmp_path / "d", HEADER | {"numTraining": 1}, *pairs("a"), *strange, "imagesTr/a_0000.json")
    (folder / "imagesTr/dicom").mkdir()
    first, second = read_dataset(folder).notes
    assert "imagesTr: 4 entries are not read: b_0000.mgz, c.img, c.mnc, dicom." in first
    assert "labelsTr: 1 entry is not read: b.mgz." in second
    (folder / "labelsTr/c.nii.gz").touch()
    assert any("c.mnc" in line for line in faults(folder)), "they may explain a fault"


def test_voxels_without_their_header_are_not_read(tmp_path):
    """A header may name any file, so voxels are known where there is a header."""
    lost = write(tmp_path / "lost", HEADER | {"numTraining": 1}, *pairs("a"), "imagesTr/b_0000.raw")
    (note,) = read_dataset(lost).notes
    assert "1 entry is not read: b_0000.raw." in note
    files = ("imagesTr/b_0000.mhd", "imagesTr/voxels.raw", "labelsTr/b.nii.gz")
    assert read_dataset(write(tmp_path / "whole", HEADER | {"numTraining": 2}, *pairs("a"), *files)).notes == ()


def test_an_img_file_belongs_to_its_hdr_file(tmp_path):
    folder = write(tmp_path / "d", HEADER | {"numTraining": 2}, *pairs("a"), "imagesTr/b.hdr", "imagesTr/b.img")
    (folder / "labelsTr/b.nii.gz").touch()
    dataset = read_dataset(folder)
    assert dataset.cases[-1].images[-1].name == "b.hdr"
    assert dataset.notes == ()


def test_a_different_number_of_cases_is_noted(tmp_path):
    (note,) = read_dataset(write(tmp_path / "d", HEADER | {"numTraining": 6}, *pairs("a", "b"))).notes
    assert "numTraining is 6, but 2 training cases were found" in note
    (note,) = read_dataset(write(tmp_path / "e", HEADER | {"numTraining": "many"}, *pairs("a", "b"))).notes
    assert "numTraining is many, but 2 training cases were found" in note
    for number, same in enumerate(("2", 2.0, None)):
        raw = write(tmp_path / f"f{number}", HEADER | {"numTraining": same}, *pairs("a", "b"))
        assert read_dataset(raw).notes == ()


def test_equal_faults_of_many_cases_are_one_line(tmp_path):
    cases = [f"pt_{number}" for number in range(30)]
    folder = write(tmp_path / "d", HEADER, *pairs(*cases))
    for case in cases:
        (folder / "labelsTr" / f"{case}.nii.gz").unlink()
    (line,) = faults(folder)
    assert "labelsTr/pt_0.nii.gz is missing" in line
    assert "30 cases are alike: pt_0, pt_1" in line
    header = HEADER | {"annotated": {f"no_{number}": ["anterior"] for number in range(9)}}
    (line,) = faults(write(tmp_path / "e", header, *pairs("a")))
    assert "annotated.no_0: no such case. Correct the id, or remove the entry. 9 cases are alike" in line
