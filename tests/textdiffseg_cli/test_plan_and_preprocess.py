"""`tds_plan_and_preprocess` from a raw folder to stored cases, and what it says when it cannot."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import textdiffseg as tds
from plans.choices import PRESETS
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.raw.prompts import Prompts
from textdiffseg.data import store
from textdiffseg.data.splits import read_splits
from textdiffseg.data.store import list_cases
from textdiffseg.files import write_record
from textdiffseg.folds.agreement import check_words
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.tasks import datasets
from textdiffseg.tasks import words as tasks_words
from textdiffseg.text.bank import TextBank
from textdiffseg.text.encoder import TextEncoder
from textdiffseg.text.folder import encoder_folder
from textdiffseg.text.stored import stored_words
from textdiffseg_cli import plan_and_preprocess

WORDS = ("text_bank.safetensors", "text_space.safetensors")


def run(root, *arguments: str, workers: str = "0") -> int:
    return plan_and_preprocess.main([*arguments, "--root", str(root), "--workers", workers])


def test_everything_is_written_and_reported(tiny_raw, tmp_path, capsys):
    assert run(tmp_path, "901", workers="2") == 0
    folder = tmp_path / "preprocessed" / "Dataset901_Tiny"
    plan = Plan.read(folder / "plan.json")
    assert list_cases(folder) == ("tiny_00", "tiny_01", "tiny_02", "tiny_03")
    assert len(read_splits(folder / "splits.json", list_cases(folder)).folds) == 4
    assert all((folder / name).is_file() for name in WORDS)
    assert list(Prompts.read(tiny_raw / "prompts.json").labels) == ["bright cube", "dark cube"]
    output = " ".join(capsys.readouterr().out.split())
    assert all(decision.name in output for decision in plan.reasons)
    assert "4 new, 0 unchanged" in output
    assert "there are 4 folds instead of 5" in output
    words = [(folder / name).stat().st_mtime_ns for name in WORDS]
    assert run(tmp_path, "Tiny", "--preset", "unet") == 0
    assert "0 new, 4 unchanged" in capsys.readouterr().out
    assert Plan.read(folder / "plan_unet.json").diffusion is None
    assert Plan.read(folder / "plan.json") == plan
    assert [(folder / name).stat().st_mtime_ns for name in WORDS] == words


def test_words_are_written_after_the_checks_and_follow_renamed_labels(tiny_raw, tmp_path, capsys):
    image, path = tiny_raw / "imagesTr" / "tiny_00_0000.nii.gz", tiny_raw / "prompts.json"
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    assert run(tmp_path, "901") == 2
    assert not path.exists()
    image.write_bytes(whole)
    assert run(tmp_path, "901") == 0
    rename(tiny_raw, "dark cube", "Dark_Box")
    capsys.readouterr()
    assert run(tmp_path, "901") == 0
    assert Prompts.read(path).labels == {"bright cube": ("bright cube",), "Dark_Box": ("dark box",)}
    assert f"Brought {path} up to date" in capsys.readouterr().out
    edited = Prompts.read(path).model_copy(update={"scan": "two cubes"})
    write_record(path, edited)
    rename(tiny_raw, "Dark_Box", "cube")
    assert run(tmp_path, "901") == 2
    assert "labels.cube: missing" in capsys.readouterr().err
    assert Prompts.read(path) == edited


def rename(raw, before: str, after: str) -> None:
    """Rename a label in dataset.json."""
    header = json.loads((raw / "dataset.json").read_text())
    labels = {after if name == before else name: value for name, value in header["labels"].items()}
    (raw / "dataset.json").write_text(json.dumps(header | {"labels": labels}))


def test_what_may_be_a_mistake_is_noted(tmp_path, write_raw):
    """Labels that some or all cases lack, counts that differ, files that are not read."""
    raw = write_raw(tmp_path, numTraining=6)
    header = json.loads((raw / "dataset.json").read_text())
    header["labels"] = {"background": 0, "bright cube": 1, "dark cube": 2, "cyst": 3}
    (raw / "dataset.json").write_text(json.dumps(header))
    path = raw / "labelsTr" / "tiny_01.nii.gz"
    volume = read_labels(path)
    write_labels(path, np.where(volume.array[0] == 2, 0, volume.array[0]), volume.geometry)
    (raw / "imagesTr" / "x_0000.mgz").touch()
    notes = "\n".join(tds.plan("901", root=tmp_path, workers=0).notes)
    assert "numTraining is 6, but 4 training cases were found" in notes
    assert "1 entry is not read: x_0000.mgz" in notes
    assert "No training case holds cyst" in notes
    assert "dark cube is in 3 of 4 cases. If it was not drawn in the others" in notes
    header |= {"annotated": {"tiny_01": ["bright cube"]}, "numTraining": 4}
    (raw / "dataset.json").write_text(json.dumps(header))
    notes = "\n".join(tds.plan("901", root=tmp_path, workers=0).notes)
    assert "in 3 of" not in notes
    assert "numTraining" not in notes


def test_memory_decides_for_a_gpu(tiny_raw, tmp_path):
    assert run(tmp_path, "901", "--memory-gb", "6") == 0
    plan = Plan.read(tmp_path / "preprocessed" / "Dataset901_Tiny" / "plan.json")
    assert (plan.device, plan.memory.budget_gb) == ("gpu", 6)
    assert plan.memory.training_gb <= 6


def test_changed_words_make_a_new_bank(tiny_raw, tmp_path):
    assert run(tmp_path, "901") == 0
    bank = tmp_path / "preprocessed" / "Dataset901_Tiny" / "text_bank.safetensors"
    before, prompts = bank.read_bytes(), json.loads((tiny_raw / "prompts.json").read_text())
    prompts["labels"]["bright cube"] += ["white box"]
    (tiny_raw / "prompts.json").write_text(json.dumps(prompts))
    assert run(tmp_path, "901") == 0
    assert bank.read_bytes() != before


def test_each_encoder_has_words_of_its_own(tiny_raw, tmp_path, capsys):
    """CASES: one preset's planning must not replace the words of another, nor reuse those of another model."""
    folder, encoder = tmp_path / "preprocessed" / "Dataset901_Tiny", tmp_path / "encoder"
    shutil.copytree(encoder_folder("bundled"), encoder)
    assert run(tmp_path, "901") == 0
    before = {name: (folder / name).read_bytes() for name in WORDS}
    assert run(tmp_path, "901", "--preset", "unet", "--text-encoder", str(encoder)) == 0
    assert {name: (folder / name).read_bytes() for name in WORDS} == before
    plan = Plan.read(folder / "plan_unet.json")
    files = stored_words(PreprocessedFolder(folder), plan)
    assert files.bank.name not in WORDS
    first = TextBank.load(files)
    check_words([files.bank], [plan], [first])
    with pytest.raises(tds.UserError, match="holds vectors of the text encoder 'bundled'"):
        check_words([files.bank], [plan], [TextBank.load(PreprocessedFolder(folder).words("default"))])
    scramble(encoder / "model.safetensors")
    assert run(tmp_path, "901", "--preset", "unet", "--text-encoder", str(encoder)) == 0
    second = TextBank.load(files)
    assert not torch.equal(first.raw[0][0].pooled, second.raw[0][0].pooled), "the folder holds another model now"
    with pytest.raises(tds.UserError, match="with other weights"):
        first.encode("cyst", TextEncoder(str(encoder)))


def scramble(path) -> None:
    """Other weights of the same shapes."""
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = weights[name].flip(0)
    save_file(weights, path, metadata={"format": "pt"})


def test_words_of_an_older_folder_are_read(tiny_raw, tmp_path):
    """Folders of older versions have one bank for all presets but the publication's."""
    assert run(tmp_path, "901") == 0
    folder = PreprocessedFolder(tmp_path / "preprocessed" / "Dataset901_Tiny")
    plan = Plan.read(folder.plan("default"))
    elsewhere = plan.model_copy(update={"text": plan.text.model_copy(update={"encoder": "/models/x"})})
    assert stored_words(folder, elsewhere) == folder.words("default")
    assert stored_words(folder, plan.model_copy(update={"preset": "paper"})) == folder.words("default", "bundled")


def times(folder, *names: str) -> dict[str, int]:
    """When each file below a folder was written, but for those named, and for locks: some filelock write them anew."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.stat().st_mtime_ns for name, path in files.items() if name not in names and path.suffix != ".lock"
    }


def test_changed_words_leave_cases_and_plan_as_they_are(tiny_raw, tmp_path, capsys):
    assert run(tmp_path, "901") == 0
    folder, path = tmp_path / "preprocessed" / "Dataset901_Tiny", tiny_raw / "prompts.json"
    written = ("plan.json", "splits.json")
    content, before = [(folder / name).read_bytes() for name in written], times(folder, *written)
    prompts = json.loads(path.read_text())
    path.write_text(json.dumps(prompts | {"scan": "a tiny scan"}))
    capsys.readouterr()
    assert run(tmp_path, "901") == 0
    assert "0 new, 4 unchanged" in capsys.readouterr().out
    after = times(folder, *written)
    assert {name for name in after if after[name] != before.get(name)} == set(WORDS)
    assert [(folder / name).read_bytes() for name in written] == content


def test_texts_of_cases_are_stored_once_and_renewed_alone(tiny_raw, tmp_path, capsys):
    assert run(tmp_path, "901") == 0
    folder, texts = tmp_path / "preprocessed" / "Dataset901_Tiny", tiny_raw / "texts"
    plain, file = Plan.read(folder / "plan.json"), folder / "case_texts.safetensors"
    assert not file.exists()
    before = times(folder, "plan.json", "splits.json")
    texts.mkdir()
    (texts / "tiny_00.txt").write_text("its cube is large")
    (texts / "tiny_02.txt").write_text("very noisy")
    assert run(tmp_path, "901") == 0
    assert "Texts of 2 cases: 2 encoded, 0 unchanged." in capsys.readouterr().out
    assert times(folder, file.name, "plan.json", "splits.json") == before
    read = Plan.read(folder / "plan.json")
    assert read.reads_texts
    assert read.model_copy(update={"text": plain.text}) == plain
    stored = file.stat().st_mtime_ns
    (texts / "tiny_00.txt").write_text("its upper cube is small")
    assert run(tmp_path, "901") == 0
    output = capsys.readouterr().out
    axes = Plan.read(folder / "plan.json")
    assert (axes.mirror_axes, axes.text_axes) == ((), (0,)), "a mirrored scan would contradict the text"
    assert run(tmp_path, "901", "--mirroring") == 0
    assert Plan.read(folder / "plan.json").mirror_axes == (1, 2)
    assert "Texts of 2 cases: 1 encoded, 1 unchanged." in output
    assert "0 new, 4 unchanged" in output
    assert file.stat().st_mtime_ns != stored
    assert run(tmp_path, "901", "--preset", "peer-unet") == 0
    output = capsys.readouterr().out
    assert "Preset peer-unet reads no words: the texts of cases are not used." in output
    (texts / "tiny_09.txt").write_text("whose?")
    assert run(tmp_path, "901") == 2
    assert "tiny_09.txt belongs to no case" in capsys.readouterr().err
    for path in texts.iterdir():
        path.unlink()
    assert run(tmp_path, "901") == 0
    assert not file.exists()
    assert Plan.read(folder / "plan.json") == plain


def test_a_data_set_elsewhere_is_not_written_into(write_raw, tmp_path, capsys):
    raw = write_raw(tmp_path / "elsewhere")
    before = sorted(raw.rglob("*"))
    assert run(tmp_path / "root", str(raw)) == 0
    assert sorted(raw.rglob("*")) == before
    words = tmp_path / "root" / "preprocessed" / raw.name / "prompts.json"
    assert words.is_file()
    assert str(words) in capsys.readouterr().out


def test_a_read_only_data_set_keeps_its_words_beside_the_plan(tiny_raw, tmp_path, monkeypatch):
    def refuse(path, record):
        if path.parent == tiny_raw:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        write_record(path, record)

    monkeypatch.setattr(datasets, "write_record", refuse)
    assert run(tmp_path, "901") == 0
    assert (tmp_path / "preprocessed" / "Dataset901_Tiny" / "prompts.json").is_file()


def test_nnunets_folds_are_taken(tiny_raw, tmp_path):
    folds = [{"train": ["tiny_00", "tiny_01", "tiny_02"], "val": ["tiny_03"]}]
    (tiny_raw / "splits_final.json").write_text(json.dumps(folds))
    assert run(tmp_path, "901") == 0
    splits = json.loads((tmp_path / "preprocessed" / "Dataset901_Tiny" / "splits.json").read_text())
    assert splits["folds"] == [{"train": folds[0]["train"], "validation": ["tiny_03"]}]


def test_folds_made_before_a_group_was_named_are_refused(tiny_raw, tmp_path, capsys):
    assert run(tmp_path, "901") == 0
    path = tiny_raw / "dataset.json"
    groups = {"tiny_00": "one patient", "tiny_01": "one patient"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"group": groups}))
    assert run(tmp_path, "901") == 2
    assert "trains on some cases of group one patient and validates others" in capsys.readouterr().err


def test_broken_cases_are_reported_in_lines_and_nothing_is_planned(tiny_raw, tmp_path, capsys):
    for case in ("tiny_00", "tiny_03"):
        (tiny_raw / "imagesTr" / f"{case}_0000.nii.gz").write_bytes(b"broken")
    assert run(tmp_path, "901") == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 2
    assert "tiny_00" in errors[0]
    assert "tiny_03" in errors[1]
    assert not (tmp_path / "preprocessed" / "Dataset901_Tiny" / "plan.json").exists()


@pytest.mark.parametrize("name", ["77", "Nothing", "/no/such/folder"])
def test_an_unknown_data_set_lists_what_there_is(tiny_raw, tmp_path, capsys, name):
    assert run(tmp_path, name) == 2
    assert "Dataset901_Tiny" in capsys.readouterr().err


def test_an_unknown_text_encoder_is_reported(tiny_raw, tmp_path, capsys):
    assert run(tmp_path, "901", "--text-encoder", str(tmp_path)) == 2
    assert "--text-encoder" in capsys.readouterr().err


def test_a_full_disk_is_reported_and_leaves_whole_cases_only(tiny_raw, tmp_path, capsys, monkeypatch):
    write, written = store.write_array, []

    def full(path, array):
        written.append(path)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_array", full)
        assert run(tmp_path, "901") == 2
    assert "The disk is full" in capsys.readouterr().err
    folder = tmp_path / "preprocessed" / "Dataset901_Tiny"
    assert list_cases(folder) == ("tiny_00",)
    assert len(list((folder / "cases").iterdir())) == 5
    assert run(tmp_path, "901") == 0
    assert "3 new, 1 unchanged" in capsys.readouterr().out


def test_label_files_without_any_label_are_refused(tmp_path, write_raw, capsys):
    import SimpleITK as sitk

    raw = write_raw(tmp_path, cases=2)
    for path in (raw / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    assert plan_and_preprocess.main(["901", "--root", str(tmp_path), "--workers", "0"]) == 2
    assert "every label file is empty" in capsys.readouterr().err
    assert not (tmp_path / "preprocessed" / raw.name / "plan.json").exists()


def test_the_bundled_encoder_stands_in_for_the_publication_s_and_reports_it(tmp_path, monkeypatch):
    """Only where the user has not named another; and the other presets' words stay as they are."""
    from concurrent.futures import Future

    import torch

    from plans.errors import UserError
    from textdiffseg.text.encoder import PhraseVectors

    class Offline:
        width = 8

        def __init__(self, name):
            if name != "bundled":
                raise UserError("not to be had")
            self.name = name

        def encode(self, phrases, longest=None):
            return [PhraseVectors(torch.randn(2, 8), torch.randn(8)) for _ in phrases]

    monkeypatch.setattr("textdiffseg.text.encoder.TextEncoder", Offline)
    encoders_of = tasks_words.encoders_of
    prompts, encoders = Prompts(scan="CT", labels={"liver": ("liver",)}), encoders_of(None, "paper")
    bank = Future()
    bank.set_result(tasks_words.write_words(("liver",), prompts, encoders, PreprocessedFolder(tmp_path), "paper"))
    text = tasks_words.text_plan(encoders, bank, "paper")
    assert (text.encoder, text.width) == ("bundled", 8)
    assert "bundled stands in for emilyalsentzer/Bio_ClinicalBERT" in text.note
    assert tasks_words.text_plan(("bundled",), bank, "paper").note == text.note, "also if it was named"
    assert tasks_words.text_plan(("bundled",), bank, "default").note is None
    other = PreprocessedFolder(tmp_path / "other")
    with pytest.raises(UserError, match="not to be had"):
        tasks_words.write_words(("liver",), prompts, encoders_of("mine", "paper"), other, "paper")
    assert encoders_of(None, "default") == encoders_of(None, "peer-unet") == ("bundled",)
    files = PreprocessedFolder(tmp_path)
    assert len({files.words(preset, "bundled") for preset in PRESETS}) == 1
    assert files.words("paper", "a/b") == files.words("default", "a/b") != files.words("default", "bundled")
    older = {preset: files.words(preset) for preset in PRESETS}
    assert older["paper-no-text"] == older["paper"] != older["default"] == older["peer-unet"]
