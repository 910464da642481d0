"""The benchmark of freed memory predicts the same cases in both ways."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


def test_both_ways_predict_the_same(benchmark, model, bank, monkeypatch, capsys):
    module, kept = benchmark("allocator"), []
    shape = (len(model.plan.channels), *model.plan.patch)
    monkeypatch.setattr(module, "load_network", lambda _: model)
    monkeypatch.setattr(module.TextBank, "load", lambda _: bank)
    monkeypatch.setattr(module, "list_cases", lambda _: ("a", "b", "c"))
    monkeypatch.setattr(module, "open_case", lambda *_: SimpleNamespace(image=np.ones(shape, np.float32)))
    monkeypatch.setattr(module, "keep_freed_memory", lambda: kept.append(1) or True)
    monkeypatch.setattr(module, "in_own_process", lambda work, *args: work(*args))
    threads = torch.get_num_threads()
    module.compare(argparse.Namespace(fold=Path("f"), preprocessed=Path("p"), cases=2, repeats=2))
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is True
    assert len(kept) == 2
    assert found["kept"]["cpu_seconds"] > 0
    assert found["ratio"] > 0
