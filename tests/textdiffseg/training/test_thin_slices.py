"""CPUs with AMX train on thin slices: the switch of oneDNN that the commands set, and what it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("plan_and_preprocess", "train", "predict", "evaluate", "demo")
# (grid, channels, kernel): patches whose gradients torch 2.13 computes wrong, as NaN, or not at all with AMX.
SHAPES = [((3, 64, 64), 32, (1, 3, 3)), ((8, 96, 96), 16, (3, 3, 3)), ((4, 48, 48), 64, (1, 3, 3))]
GRADIENTS = """
import sys
import torch
grid, channels, kernel = eval(sys.argv[1])
torch.manual_seed(0)
layer = torch.nn.Conv3d(channels, channels, kernel, padding=tuple(k // 2 for k in kernel))
image, weight = torch.randn(2, channels, *grid), torch.randn(2, channels, *grid)
found = []
for bfloat16 in (False, True):
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = layer(image)
    (out.float() * weight).mean().backward()
    found.append(layer.weight.grad.clone())
error = float((found[1] - found[0]).norm() / found[0].norm())
assert error < 0.03, error
"""
SWITCH = """
import os, sys
from textdiffseg_cli import {name} as command
from textdiffseg_cli.common import run
sys.exit(run(lambda: 7 if "torch" not in sys.modules and os.environ["ONEDNN_MAX_CPU_ISA"] else 1))
"""


def has_amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


@pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX")
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_on_thin_grids_are_right_with_the_switch(shape):
    """In a process of its own, which the fault kills."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    command = [sys.executable, "-c", GRADIENTS, repr(shape)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_sets_the_switch_before_torch_is_imported(name):
    environment = {key: value for key, value in os.environ.items() if key != "ONEDNN_MAX_CPU_ISA"}
    code = SWITCH.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, env=environment
    )
    assert done.returncode == 7, done.stderr
