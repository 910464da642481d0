"""The benchmark of overlaps and window sizes predicts with what it names."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


def test_a_scaled_patch_is_a_multiple_of_the_stride(benchmark):
    windows, plan = benchmark("windows"), SimpleNamespace(patch=(16, 24, 32), total_stride=(4, 8, 8))
    assert windows.scaled(plan, 1.5) == (24, 32, 48)
    assert windows.scaled(plan, 0.1) == (4, 8, 8)


def test_a_row_predicts_with_its_overlap_and_patch(benchmark, model, bank, monkeypatch):
    windows, used = benchmark("windows"), []
    own, larger = model.plan.patch, tuple(2 * edge for edge in model.plan.patch)
    scan = SimpleNamespace(image=torch.zeros(1, *(4 * edge for edge in own)))

    def dice_by_case(predictor, scans, queries):
        used.append((predictor.settings.overlap, predictor.plan.patch))
        return {"a": {"front": 0.5, "back": 0.75}}

    monkeypatch.setattr(model, "plan", model.plan)  # restored afterwards
    monkeypatch.setattr(windows, "load_network", lambda *_, **__: model)
    monkeypatch.setattr(windows.TextBank, "load", lambda _: bank)
    monkeypatch.setattr(windows, "stored_scans", lambda *_: [scan])
    monkeypatch.setattr(windows, "dice_by_case", dice_by_case)
    args = argparse.Namespace(fold=Path("fold_0"), device="cpu")
    half, none, large = (
        windows.row(args, patch, overlap, Path(), ["a"]) for patch, overlap in ((own, 0.5), (own, 0.0), (larger, 0.0))
    )
    assert used == [(0.5, own), (0.0, own), (0.0, larger)]
    assert (half["windows"], none["windows"], large["windows"]) == (7**3, 4**3, 2**3)
    assert half["dice"] == pytest.approx(0.625)
