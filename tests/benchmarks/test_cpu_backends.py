"""The benchmarks of ways to run the mask, and of the modes of a prediction, measure what they name."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def test_each_way_gives_the_mask_of_the_plain_one(benchmark, model, bank, monkeypatch, capsys):
    backends = benchmark("cpu_backends")
    monkeypatch.setattr(backends, "load_network", lambda _: model)
    monkeypatch.setattr(backends.TextBank, "load", lambda _: bank)
    args = argparse.Namespace(fold=Path("fold_0"), windows=2, repeats=1, ways=["plain", "channels_last", "openvino"])
    backends.compare(args)
    found = json.loads(capsys.readouterr().out)
    assert list(found["ways"]) == args.ways
    assert found["ways"]["plain"]["gain"] == 1
    assert all(way["difference"] < 1e-3 and way["s"] > 0 for way in found["ways"].values())
    assert found["ct"]["shape"] == [341, 410, 410], "512 x 512 x 275 voxels at 1 mm"
    assert found["ct"]["minutes"] > 0


def test_modes_segment_with_their_options(benchmark, monkeypatch, capsys):
    modes, seen = benchmark("modes"), []
    masks = {"torch": np.array([True, True, False]), "openvino": np.array([True, False, False])}

    def load(_, device, backend="torch"):
        result = SimpleNamespace(names=("a", "b"), mask=lambda name: masks[backend] & (name == "a"))
        return SimpleNamespace(segment=lambda scan, **options: seen.append((backend, options)) or result)

    monkeypatch.setattr(modes.tds, "load", load)
    modes.compare(argparse.Namespace(model=Path("m"), scan=Path("a.nii.gz"), repeats=2, device="cpu"))
    by_torch = [("torch", options) for options in ({}, {"effort": "fast"}, {"effort": "best"}, {"alternatives": 4})]
    turn = [*by_torch, ("openvino", {})]
    assert seen == [("torch", {}), ("openvino", {}), *turn, *turn], "once to warm up"
    found = json.loads(capsys.readouterr().out)["modes"]
    assert list(found) == ["mask", "fast", "best", "four alternatives", "openvino"]
    assert found["mask"]["ratio"] == 1
    assert found["openvino"]["dice"] == 2 / 3, "of the label that one of them has"
