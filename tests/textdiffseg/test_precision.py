"""Where bfloat16 is used, and the kernels of GPUs."""

import pytest
import torch

from textdiffseg import precision
from textdiffseg.training import loop


@pytest.mark.parametrize(
    ("capabilities", "isa", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, None, False),
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE_AMX", False),
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE_BF16", True),
        ({"amx_bf16": False, "avx512_bf16": True}, None, True),
        ({}, "AVX512_CORE_BF16", False),
    ],
)
def test_bfloat16_is_used_on_a_cpu_only_where_its_kernels_are_right(monkeypatch, capabilities, isa, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert precision._cpu_has_bfloat16() is expected


def test_the_process_s_flags_are_restored_after_the_context(monkeypatch):
    """DESIGN 2."""
    flags = lambda: (torch.backends.cudnn.benchmark, torch.backends.cuda.cudnn_sdp_enabled())  # noqa: E731
    before = flags()
    with precision.cuda_kernels():
        assert flags() == (True, False)
    assert flags() == before
    with pytest.raises(RuntimeError), precision.cuda_kernels():
        raise RuntimeError
    assert flags() == before


def test_the_flags_stay_until_the_last_of_several_threads_leaves():
    before = torch.backends.cudnn.benchmark
    first, second = precision.cuda_kernels(), precision.cuda_kernels()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.benchmark is True
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.benchmark == before


def test_training_runs_with_the_kernels_that_its_gradients_need(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "read_position", lambda _: seen.append(torch.backends.cuda.cudnn_sdp_enabled()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train_fold(None, None, None, loop.TrainingOptions())
    assert seen == [False]


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float32(monkeypatch, capability, expected):
    """On a T4 emulation is many times slower, and nothing would report it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.gpu_has_bfloat16(torch.device("cuda")) is expected
    assert not precision.gpu_has_bfloat16(torch.device("cpu"))
