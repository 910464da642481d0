"""Freed memory of some megabytes is kept, so that it is not taken anew from the system."""

import subprocess
import sys

import pytest

from textdiffseg.allocator import OWN_SETTINGS, keep_freed_memory
from textdiffseg_cli import common

FAULTS = """
import resource, sys
import numpy as np
from textdiffseg.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(12 << 20, np.uint8)
before = faults()
for _ in range(20):
    first, second = (np.ones(45 << 20, np.uint8) for _ in range(2))
    del first, second
print(kept, faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these settings")
def test_memory_is_taken_from_the_system_once():
    def run(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        kept, faults = done.stdout.split()
        return kept == "True", int(faults)

    (_, returned), (kept, few) = run("returned"), run("kept")
    if not kept:
        pytest.skip("another C library")
    assert few < returned / 5


def test_the_users_own_settings_stay(monkeypatch):
    monkeypatch.setenv(OWN_SETTINGS[0], "1000000")
    assert not keep_freed_memory()


def test_every_command_keeps_freed_memory(monkeypatch):
    kept = []
    monkeypatch.setattr(common, "keep_freed_memory", lambda: kept.append(True))
    assert common.run(lambda: None) == 0
    assert kept == [True]
