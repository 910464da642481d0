"""The whole chain on an emulated GPU: no operation mixes tensors of two devices. It needs g++."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import textdiffseg as tds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """What torch needs to believe in a GPU, compiled."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    (libraries,), path = library_paths()[:1], tmp_path_factory.mktemp("gpu") / "device.so"
    source = Path(__file__).parent / "gpu" / "device.cpp"
    options = ["-std=c++20", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    folders = [*(f"-I{folder}" for folder in include_paths()), f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    subprocess.run(["g++", *options, source, "-o", path, *folders, "-lc10", "-ltorch_cpu"], check=True)
    return path


@pytest.mark.parametrize("preset", ["default", "unet", "paper", "peer-resenc"])
def test_training_and_prediction_keep_to_one_device(preset, library, tmp_path, write_raw, shrink_plan, repository):
    write_raw(tmp_path, cases=6, labels=("bright cube", "left dark cube", "right dark cube"), shape=(24, 32, 56))
    planned = tds.plan("901", root=tmp_path, preset=preset, gpu_gb=8, workers=0)
    shrink_plan(planned.folder.plan(preset))
    command = [sys.executable, "-m", "tests.slow.gpu.emulated", library, tmp_path, preset]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "expected all tensors on one device" in found["mixed"]  # the emulation notices
    assert found["failures"] == []
    assert list((tmp_path / "out").glob("*.nii.gz"))
