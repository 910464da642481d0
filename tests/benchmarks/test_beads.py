"""The chains of beads: their names, what counts as consistent, and both commands."""

import contextlib
import itertools
import json
import sys

import numpy as np
import pytest


@pytest.fixture
def beads(benchmark):
    return benchmark("beads")


def test_two_names_alternate_along_a_chain_and_a_coin_decides_the_first(benchmark):
    phantoms, first = benchmark("bead_phantoms"), set()
    for index in range(12):
        phantom = phantoms.draw_phantom(0, index)
        count = phantom.beads.max()
        names = [set(phantom.labels[phantom.beads == number].tolist()) for number in range(1, 1 + count)]
        assert count >= 11
        assert all(len(one) == 1 for one in names)
        assert all(one != other for one, other in itertools.pairwise(names))
        first |= names[0]
        assert phantom.image[phantom.beads > 0].mean() > 40 + phantom.image[phantom.beads == 0].mean()
    assert first == {1, 2}


def test_a_bead_has_the_name_that_fills_it_and_a_chain_one_order(beads):
    numbered = np.repeat([0, 1, 0, 2, 0, 3, 0, 4], [2, 4, 2, 4, 2, 4, 2, 1]).reshape(-1, 1, 1)
    mask = np.where(numbered % 2 == 1, 1, 2) * (numbered > 0)
    assert beads.names_of(mask, numbered).tolist() == [1, 2, 1]  # most of the last bead lies outside the scan
    half = mask.copy()
    half[8:10] = 0
    assert beads.names_of(half, numbered).tolist() == [1, 0, 1]
    for names, good in (([1, 2, 1], True), ([2, 1, 2], True), ([1, 2, 2], False), ([1, 0, 1], False)):
        assert beads.is_consistent(np.array(names)) is good


def test_exact_windows_follow_one_order_only_in_turn(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bead_windows", "--trials", "60", "--windows", "1", "5"])
    assert benchmark("bead_windows").main() == 0
    found = json.loads(capsys.readouterr().out)["windows"]
    assert found["1"] == {"alone": 1, "averaged": 1, "in_turn": 1}
    assert found["5"]["in_turn"] > 0.9 > 0.5 > found["5"]["averaged"]


def test_the_command_reports_every_way(beads, monkeypatch, capsys, shrink_plan, tmp_path):
    def here(work, *arguments):
        with contextlib.redirect_stdout(sys.stderr):
            return work(*arguments)

    def small(data, root, args, plain=beads.planned):
        folder = plain(data, root, args)
        for path in folder.glob("plan*.json"):
            shrink_plan(path)
        return folder

    monkeypatch.setattr(beads, "in_own_process", here)
    monkeypatch.setattr(beads, "planned", small)
    monkeypatch.setattr(beads, "TRAINING", 5)
    settings = ["--epochs", "2", "--cases", "2", "--samples", "2", "--root", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["beads", *settings])
    assert beads.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["ways"]) == {"in_turn", "alone", "one_window"}
    for figures in found["ways"].values():
        assert all(0 <= figures[name] <= 1 for name in ("consistent", "alternating", "unnamed"))
        assert figures["seconds"] > 0
    assert found["in_turn_minus_alone"]["cases"] == 2
    assert set(found["verdicts"]) == set(found["bars"]) == {"in_turn", "alone"}
