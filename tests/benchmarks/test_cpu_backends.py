"""The benchmarks of ways to run the mask, and of the modes of a prediction, measure what they name."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import torch

from textdiffseg.networks.blocks import InstanceNorm


def test_each_way_gives_the_mask_of_the_plain_one(benchmark, model, bank, monkeypatch, capsys):
    backends = benchmark("cpu_backends")
    monkeypatch.setattr(backends, "load_network", lambda _: model)
    monkeypatch.setattr(backends.TextBank, "load", lambda _: bank)
    args = argparse.Namespace(fold=Path("fold_0"), windows=2, repeats=1, ways=["plain", "channels_last"])
    backends.compare(args)
    found = json.loads(capsys.readouterr().out)
    assert list(found["ways"]) == args.ways
    assert found["ways"]["plain"]["gain"] == 1
    assert all(way["difference"] < 1e-3 and way["s"] > 0 for way in found["ways"].values())
    assert found["ct"]["shape"] == [341, 410, 410], "512 x 512 x 275 voxels at 1 mm"
    assert found["ct"]["minutes"] > 0


def test_openvino_converts_the_same_normalisation(benchmark):
    backends, norm, x = benchmark("cpu_backends"), InstanceNorm(4), torch.randn(2, 4, 5, 6, 7)
    before = InstanceNorm.forward
    with backends.instance_normalisation():
        found = norm(x)
        assert InstanceNorm.forward is not before
    assert InstanceNorm.forward is before
    assert torch.allclose(found, norm(x), atol=1e-5)


def test_modes_segment_with_their_options(benchmark, monkeypatch, capsys):
    modes, seen = benchmark("modes"), []
    model = SimpleNamespace(segment=lambda scan, **options: seen.append(options))
    monkeypatch.setattr(modes.tds, "load", lambda *_, **__: model)
    modes.compare(argparse.Namespace(model=Path("m"), scan=Path("a.nii.gz"), repeats=2, device="cpu"))
    expected = [{}, {"effort": "fast"}, {"effort": "best"}, {"alternatives": 4}]
    assert seen == [{}, *expected, *expected], "once to warm up"
    found = json.loads(capsys.readouterr().out)["modes"]
    assert list(found) == ["mask", "fast", "best", "four alternatives"]
    assert found["mask"]["ratio"] == 1
