"""Options that cannot be carried out are refused before the training."""

import argparse
from pathlib import Path

import pytest

from plans.choices import PRESETS
from plans.errors import UserError
from plans.layout import PreprocessedFolder
from textdiffseg.files import write_record


def arguments(**changes) -> argparse.Namespace:
    usual = {"presets": PRESETS, "picture": None, "data": Path("nowhere"), "text_encoder": None}
    return argparse.Namespace(**usual | changes)


def test_all_missing_libraries_and_files_are_reported_together(benchmark, monkeypatch):
    paper = benchmark("paper")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        paper.check(arguments(picture=Path("x.png")))
    monai, swin, nnunet, reader, scans = error.value.lines
    assert monai.startswith("peer-unet, peer-swinunetr, peer-unetrpp: monai is not installed")
    assert swin.startswith("peer-unet, peer-swinunetr: einops")
    assert nnunet.startswith("peer-nnunet, peer-resenc: dynamic_network_architectures")
    assert "SimpleITK" in reader
    assert "nowhere" in scans
    paper.check(arguments(presets=("paper", "unet", "peer-diffunet")))


def test_every_method_of_table_i_has_a_preset(benchmark):
    paper = benchmark("paper")
    assert set(paper.TABLE_I) <= set(PRESETS)
    assert {"UNETR++", "Diff-UNet", "TextDiffSeg"} <= set(paper.TABLE_I.values())


def test_a_root_of_another_text_encoder_is_refused(benchmark, model, tmp_path):
    paper = benchmark("paper")
    for preset in ("paper", "unet"):
        write_record(PreprocessedFolder(tmp_path).plan(preset), model.plan)
    paper.check_text_encoder(tmp_path, "paper", arguments(text_encoder="bundled"))
    paper.check_text_encoder(tmp_path, "unet", arguments(text_encoder="other"))
    with pytest.raises(UserError, match="planned with the text encoder bundled"):
        paper.check_text_encoder(tmp_path, "paper", arguments(text_encoder="other"))
