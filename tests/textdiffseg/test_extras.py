"""Commands that need an extra end in one line where it is not installed; prediction and planning need none."""

import importlib.util
import subprocess
import sys

import pytest

from plans.errors import UserError
from textdiffseg.extras import EXTRAS, advice, missing_extra, require

OPTIONAL = (
    *("surface_distance", "monai", "einops", "matplotlib", "batchgenerators", "batchgeneratorsv2", "distributed"),
    *("pydicom", "highdicom", "contourpy", "ipyniivue", "tensorboard", "openvino"),
)
WITHOUT = f"import sys\nfor name in {OPTIONAL}:\n    sys.modules[name] = None\n"  # importing one of them fails
RUN = WITHOUT + "from importlib import import_module\nsys.exit(import_module(sys.argv[1]).main(sys.argv[2:]))"


def command(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh interpreter in which no extra can be imported."""
    words = [sys.executable, "-c", RUN, f"textdiffseg_cli.{name}", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, encoding="utf-8", check=False)


def test_a_scan_is_predicted_without_any_extra(root, make_scan):
    make_scan(root / "scans" / "a.nii.gz")
    done = command("predict", "-i", root / "scans", "-o", root / "out", "--root", root, "--uncertainty", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert (root / "out" / "a.nii.gz").is_file()
    assert "Traceback" not in done.stderr


def test_a_data_set_is_planned_and_stored_without_any_extra(tiny_raw):
    done = command("plan_and_preprocess", "901", "--root", tiny_raw.parent.parent, "--workers", "0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "train",
            ("901", "0"),
            "tds_train needs batchgeneratorsv2, batchgenerators, monai, einops, surface_distance and matplotlib: "
            "pip install 'textdiffseg[train]'",
        ),
        (
            "demo",
            (),
            "tds_demo needs batchgeneratorsv2, batchgenerators, monai, einops, surface_distance and matplotlib: "
            "pip install 'textdiffseg[train]'",
        ),
        (
            "predict",
            ("-i", "a", "-o", "b", "--rtstruct"),
            "tds_predict --rtstruct needs pydicom, highdicom and contourpy: pip install 'textdiffseg[dicom]'",
        ),
        ("evaluate", ("a", "b"), "tds_evaluate needs surface_distance: pip install 'textdiffseg[report]'"),
    ],
)
def test_a_command_that_lacks_an_extra_ends_in_one_line(tmp_path, name, arguments, message):
    where = () if name == "evaluate" else ("--root", tmp_path)
    done = command(name, *arguments, *where)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_cannot_be_imported_is_reported_in_one_line(tiny_raw):
    at = ("--root", tiny_raw.parent.parent)
    done = command("plan_and_preprocess", "901", *at, "--scheduler", "tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: --scheduler needs distributed: pip install 'textdiffseg[cluster]'"


def test_from_python_a_missing_extra_is_a_user_error(monkeypatch):
    import textdiffseg as tds

    monkeypatch.setitem(sys.modules, "surface_distance", None)
    with pytest.raises(UserError, match=r"^tds_evaluate needs surface_distance: pip install 'textdiffseg\[report\]'$"):
        tds.evaluate("a", "b")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(UserError, match=r"^tds_train needs monai: pip install 'textdiffseg\[train\]'$"):
        tds.train("901")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    missing = r"^--track tensorboard needs tensorboard: pip install 'textdiffseg\[track\]'$"
    for work in (tds.train, tds.run):
        with pytest.raises(UserError, match=missing):
            work("901", options=tds.TrainingOptions(track="tensorboard"))
    with pytest.raises(UserError, match=r"^track: expected one of 'tensorboard', found 'wandb'\.$"):
        tds.train("901", options=tds.TrainingOptions(track="wandb"))


def test_a_peer_network_names_the_extra_that_it_needs(monkeypatch, make_plan):
    from textdiffseg.networks.model import build_model

    extra, alone = r"'textdiffseg\[train\]'", "--no-deps 'dynamic-network-architectures>=0.3.1,<0.5'"
    for preset, module, what in (
        ("peer-unet", "monai", extra),
        ("peer-nnunet", "dynamic_network_architectures", alone),
        ("peer-resenc", "dynamic_network_architectures", alone),
        ("peer-unetrpp", "monai", extra),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"^Preset {preset} needs {module}: pip install {what}$"):
            build_model(make_plan(preset, diffusion=None, peer=preset.removeprefix("peer-")))
    build_model(make_plan("peer-diffunet", diffusion=None, peer="diffunet"))  # it needs no library


def test_every_name_of_the_front_door_is_there_without_any_extra():
    code = WITHOUT + "import textdiffseg as tds\nassert all(getattr(tds, name) is not None for name in tds.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_modules_that_are_there_pass_and_nothing_is_imported(monkeypatch):
    monkeypatch.setitem(EXTRAS, "report", ("json", "this_module_does_not_exist"))
    require("report", "tds_report", "json")
    with pytest.raises(UserError, match=r"^tds_report needs this_module_does_not_exist: "):
        require("report", "tds_report")
    assert importlib.util.find_spec("antigravity") is not None
    require("report", "tds_report", "antigravity")
    assert "antigravity" not in sys.modules


def test_an_import_that_fails_inside_a_command_names_its_extra(capsys):
    from textdiffseg_cli.common import run

    def work(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert run(work, "surface_distance.metrics") == 2
    expected = f"error: The module surface_distance.metrics is not installed: {advice('report')}\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(ModuleNotFoundError):
        run(work, "ours.lost")
    assert missing_extra(ModuleNotFoundError("no name")) is None
