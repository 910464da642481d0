"""CPUs with bfloat16 train on thin slices: the switch of oneDNN that the commands set, and thin grids in float32."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from textdiffseg import precision

CAPABILITIES = getattr(torch.cpu, "get_capabilities", dict)()  # missing in torch 2.8
COMMANDS = ("plan_and_preprocess", "train", "predict", "evaluate", "demo")
# (grid, channels, kernel, stride): convolutions whose gradients torch 2.13 computes wrong, as NaN, or not at all. The
# first three with AMX, the others with AVX512-BF16.
CONVOLUTIONS = [
    ((3, 64, 64), 32, (1, 3, 3), 1),
    ((8, 96, 96), 16, (3, 3, 3), 1),
    ((4, 48, 48), 64, (1, 3, 3), 1),
    ((2, 16, 16), 16, (3, 3, 3), 1),
    ((1, 1, 1), 16, (3, 3, 3), 2),
    ((4, 9, 9), 16, (7, 7, 7), 1),
    ((6, 3, 1), 32, (3, 1, 1), (1, 2, 2)),
]
GRADIENTS = """
import sys
import torch
from textdiffseg.precision import autocast
grid, channels, kernel, stride = eval(sys.argv[1])
for layer_type in torch.nn.Conv3d, torch.nn.ConvTranspose3d:
    torch.manual_seed(0)
    layer = layer_type(channels, channels, kernel, stride, padding=tuple(k // 2 for k in kernel))
    image = torch.randn(2, channels, *grid)
    expected = layer(image)
    weight = torch.randn_like(expected)
    (expected * weight).mean().backward()
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    with autocast(torch.device("cpu")):
        out = layer(image)
    assert out.dtype == torch.bfloat16, out.dtype
    (out.float() * weight).mean().backward()
    error = float((layer.weight.grad - gradient).norm() / gradient.norm())
    assert error < 0.03, (layer, error)
"""
SWITCH = """
import os, sys
from textdiffseg_cli import {name} as command
from textdiffseg_cli.common import run
sys.exit(run(lambda: 7 if "torch" not in sys.modules and os.environ["ONEDNN_MAX_CPU_ISA"] else 1))
"""


@pytest.mark.skipif(not CAPABILITIES.get("avx512_bf16", False), reason="this CPU has no bfloat16")
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_gradients_on_thin_grids_are_right_with_the_switch(convolution):
    """In a process of its own, which the fault kills."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    command = [sys.executable, "-c", GRADIENTS, repr(convolution)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_only_thin_grids_leave_bfloat16(monkeypatch):
    """On any CPU: the kernels are not asked whether they are fast."""
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    seen = []
    monkeypatch.setattr(precision, "float32_products", lambda device: seen.append(device) or nullcontext())
    layer = torch.nn.Conv3d(1, 1, 3, padding=1)
    with precision.autocast(torch.device("cpu")):
        assert layer(torch.zeros(1, 1, 4, 5, 6)).dtype == torch.bfloat16
        assert not seen
        assert layer(torch.zeros(1, 1, 3, 5, 6)).dtype == torch.bfloat16
        assert len(seen) == 1
        torch.nn.functional.conv3d(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))  # no kernel beyond a voxel
        assert len(seen) == 1
        kernel = torch.zeros(1, 1, 3, 3, 3)
        assert torch.nn.functional.conv3d(input=kernel, weight=kernel).dtype == torch.bfloat16
        assert len(seen) == 2
        with torch.autocast("cpu", enabled=False):
            assert layer(torch.zeros(1, 1, 3, 5, 6)).dtype == torch.float32
    assert layer(torch.zeros(1, 1, 3, 5, 6)).dtype == torch.float32


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_sets_the_switch_before_torch_is_imported(name):
    environment = {key: value for key, value in os.environ.items() if key != "ONEDNN_MAX_CPU_ISA"}
    code = SWITCH.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, env=environment
    )
    assert done.returncode == 7, done.stderr
