"""What a killed process left is swept by the next start, and nothing else is."""

import os
import signal
import subprocess
import sys
import time

import pytest

from textdiffseg import files
from textdiffseg.files import TemporaryOwner, machine_tag, temporary_folder, temporary_name
from textdiffseg.leftovers import MAX_AGE_SECONDS, sweep

KILLED = """
import os, signal, sys
from pathlib import Path
from textdiffseg import files
files.open_no_link = lambda path, flags, do=files.open_no_link: (do(path, flags), os.kill(os.getpid(), signal.SIGKILL))
with files.temporary_folder(Path(sys.argv[1]) / "mask.nii.gz") as folder:
    (folder / "mask.nii.gz").write_text("half")
    files.write_atomically(Path(sys.argv[1]) / "plan.json", "{}")
"""


def test_what_a_killed_process_left_is_swept(tmp_path, repository):
    """DESIGN 3: everything is written to a temporary name and renamed."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=repository, check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".hidden.tmp").write_text("mine")
    assert len(list(tmp_path.iterdir())) == 4
    assert sweep([tmp_path, tmp_path / "nowhere"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.tmp", "mine.txt"]


def test_what_a_living_process_writes_stays(tmp_path):
    with temporary_folder(tmp_path / "mask.nii.gz") as folder:
        assert sweep([tmp_path]) == 0
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(("age", "swept"), [(MAX_AGE_SECONDS / 2, 0), (2 * MAX_AGE_SECONDS, 1)])
def test_what_another_machine_left_is_swept_after_a_day(tmp_path, monkeypatch, age, swept):
    """Whether its process lives is not known."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "machine_tag", lambda: "0" * 8)
        path = tmp_path / temporary_name("plan.json")
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    assert sweep([tmp_path]) == swept


def test_a_link_is_swept_and_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_text("mine")
    name = temporary_name("plan.json").replace(f"-{os.getpid()}-", "-99999999-")
    (tmp_path / name).symlink_to(target)
    assert sweep([tmp_path]) == 1
    assert (target / "file").read_text() == "mine"


def test_a_name_holds_its_owner():
    assert TemporaryOwner.of(temporary_name("a.b")) == TemporaryOwner(machine_tag(), os.getpid())
    assert TemporaryOwner.of(".plan.json.tmp") is None
