"""The findings of the doctor, on machines that lack something."""

import json
from types import SimpleNamespace

import pytest
import torch

from plans.errors import UserError
from textdiffseg.tasks import doctor
from textdiffseg_cli import doctor as command


def found(root, name):
    return next(finding for finding in doctor.examine(root) if finding.name == name)


def test_this_machine_can_work(tmp_path, capsys):
    names = {finding.name for finding in doctor.examine(tmp_path)}
    assert {"Python", "torch", "memory", "disk", "write access", "text encoder", "extra train"} <= names
    assert command.main(["--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] in ("good", "note")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "missing_modules", lambda extra: ("distributed",))
    finding = found(tmp_path, "extra cluster")
    assert (finding.state, finding.found) == ("good", "not installed: distributed")


def test_a_root_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path):
    assert found(tmp_path / "a" / "b", "write access").state == "good"
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch, capsys):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert found(tmp_path, "write access").state == "bad"
    assert command.main(["--root", str(tmp_path)]) == 2
    assert "--root" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "function", "amount"),
    [
        ("memory", "free_memory", lambda: 2e9),
        ("disk", "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1e9))),
    ],
)
def test_little_room_is_a_note_with_advice(tmp_path, monkeypatch, name, function, amount):
    monkeypatch.setattr(doctor, function, amount)
    finding = found(tmp_path, name)
    assert finding.state == "note"
    assert finding.advice


def test_a_gpu_is_named_with_its_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    for free, state in ((100e9, "good"), (3e9, "note")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), int(140e9)))
        assert found(tmp_path, "GPU 0").state == state
        assert "A GPU" in found(tmp_path, "GPU 0").found


def test_a_gpu_that_cannot_be_used_is_a_problem(tmp_path, monkeypatch):
    def busy(_):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    finding = found(tmp_path, "GPU 0")
    assert finding.state == "bad"
    assert finding.found == "cannot be used (CUDA error: all CUDA-capable devices are busy or unavailable)"


def test_a_root_that_may_not_be_read_is_a_problem(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.Path, "exists", refuse)
    assert [(one.name, one.state) for one in doctor._disk(tmp_path)] == [("write access", "bad")]


def test_a_version_that_does_not_fit_is_a_problem(monkeypatch):
    wanted = ["torch!=2.9.*,>=99", "numpy>=1.26", 'matplotlib>=99; extra == "report"', "nothing-like-this>=1"]
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    (finding,) = doctor._unfit("")
    assert (finding.name, finding.state) == ("torch", "bad")
    assert "pip install 'torch!=2.9.*,>=99'" in finding.advice
    assert [one.name for one in doctor._unfit("report")] == ["matplotlib"]


def test_a_missing_text_encoder_is_a_problem_with_its_advice(tmp_path, monkeypatch):
    def missing(_):
        raise UserError("The bundled text encoder is not installed.")

    monkeypatch.setattr("textdiffseg.text.folder.encoder_folder", missing)
    assert found(tmp_path, "text encoder").state == "bad"


def test_the_worst_part_decides():
    def of(*states):
        return tuple(doctor.Finding("x", state, "") for state in states)

    assert doctor.worst(of("good", "good")) == "good"
    assert doctor.worst(of("good", "note")) == "note"
    assert doctor.worst(of("note", "bad", "good")) == "bad"
