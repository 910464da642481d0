"""Masks by OpenVINO are those of torch, for every shape of the inputs; samples stay torch's."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import textdiffseg as tds
from plans.network_plan import OverviewPlan
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference import openvino
from textdiffseg.inference.openvino import OpenVINOSegmenter
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.blocks import InstanceNorm
from textdiffseg.resources import cores
from textdiffseg.segmenter import Segmenter
from textdiffseg_cli import predict

MIRRORED = PredictionSettings(mirror_axes=(0, 2))
MODEL = "results/Dataset900_Tiny/default"


@pytest.fixture
def converted(monkeypatch):
    """The shapes of the images that networks were converted for."""
    seen, convert = [], openvino._convert
    monkeypatch.setattr(
        openvino, "_convert", lambda network, inputs: seen.append(inputs[0].shape) or convert(network, inputs)
    )
    return seen


@pytest.mark.parametrize("kind", ["default", "overview", "peer"])
def test_masks_agree_with_torch(plan, make_model, bank, image, kind):
    changes = {
        "default": {},
        "overview": {"overview": OverviewPlan()},
        "peer": {"preset": "peer-unet", "peer": "unet", "diffusion": None},
    }
    networks = [make_model(plan.model_copy(update=changes[kind]), seed) for seed in (0, 1)]
    queries = bank.all_labels().padded(3)
    by_torch = Predictor(networks, MIRRORED).predict_image(image, queries).probabilities
    segmenters = [OpenVINOSegmenter.of(network) for network in networks]
    predictor = Predictor(networks, MIRRORED, batch=openvino.WINDOWS_AT_ONCE, segmenters=segmenters)
    found = predictor.predict_image(image, queries).probabilities
    torch.testing.assert_close(found, by_torch, atol=1e-3, rtol=0)
    assert by_torch.std() > 0.05


def test_a_network_is_converted_once_for_each_shape(root, make_scan, converted):
    make_scan(root / "a.nii.gz")
    model = tds.load(root / MODEL, device="cpu", backend="openvino", folds=["0"])
    for _ in range(2):
        model.segment(root / "a.nii.gz")
    assert len(converted) == 1
    assert converted[0][0] == openvino.WINDOWS_AT_ONCE


def test_only_the_last_conversion_is_kept(plan, make_model, bank, image, converted):
    segmenter = OpenVINOSegmenter.of(make_model(plan, 0))
    predictor = Predictor([segmenter.network], PredictionSettings(), batch=1, segmenters=[segmenter])
    for slots in (2, 3, 2):
        predictor.predict_image(image, bank.all_labels().padded(slots))
    assert len(converted) == 3
    assert len(segmenter.compiled) == 1


def test_it_runs_in_float32_on_the_threads_of_torch(plan, make_model, bank, image, monkeypatch):
    threads = min(2, cores())  # it takes no more than the cores of this process
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    segmenter = OpenVINOSegmenter.of(make_model(plan, 0))
    Predictor([segmenter.network], PredictionSettings(), batch=1, segmenters=[segmenter]).predict_image(
        image, bank.all_labels()
    )
    (compiled,) = segmenter.compiled.values()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert "float32" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_low_resolution_has_the_same_backend(root, make_plan, make_fold, bank):
    low = make_plan(resolution="low", spacing=(2, 2, 2))
    make_fold(root / "results" / low.dataset / "default-low" / "fold_0", low, bank, 7)
    assert tds.load(root / MODEL, device="cpu", backend="openvino").low.backend == "openvino"


def test_samples_are_those_of_torch(root, make_scan, converted):
    make_scan(root / "a.nii.gz")
    by_torch, found = (
        tds.load(root / MODEL, device="cpu", backend=backend).segment(root / "a.nii.gz", samples=2, steps=2, seed=1)
        for backend in ("torch", "openvino")
    )
    assert converted == []
    drawn = tds.load(root / MODEL, device="cpu", backend="openvino").prepare(tds.SegmentOptions(samples=2, steps=2))
    assert {type(one) for one in drawn.mask_predictor.predictor.segmenters} == {Segmenter}
    assert np.array_equal(found.labels, by_torch.labels)


def test_the_command_s_mask_and_manifest(root, make_scan, capsys):
    make_scan(root / "scans" / "a.nii.gz")
    for backend in ("torch", "openvino"):
        where = ["-i", str(root / "scans"), "-o", str(root / backend), "--root", str(root), "--device", "cpu"]
        assert predict.main([*where, "--backend", backend]) == 0
    assert "on cpu with OpenVINO" in capsys.readouterr().out
    by_torch, found = (tds.evaluate(root / one, root / "torch").mean.dice for one in ("torch", "openvino"))
    assert by_torch == 1
    assert found > 0.99
    manifest = json.loads((root / "openvino" / "a.json").read_text())
    assert manifest["backend"] == "openvino"
    assert manifest["versions"]["openvino"].startswith("20")
    assert "openvino" not in json.loads((root / "torch" / "a.json").read_text())["versions"]


def test_it_is_for_the_cpu_alone(root, monkeypatch):
    monkeypatch.setattr("textdiffseg.inference.model.choose_device", lambda device: device)
    with pytest.raises(tds.UserError, match=r"^--backend openvino computes on the CPU\. Add --device cpu"):
        tds.load(root / MODEL, device="cuda", backend="openvino")


def test_without_the_library_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(tds.UserError, match=r"needs openvino: pip install 'textdiffseg\[openvino\]'$"):
        tds.load(root / MODEL, device="cpu", backend="openvino")


def test_a_network_that_cannot_be_converted_is_a_user_error(plan, make_model, bank, image):
    network = make_model(plan, 0)
    network.fusion.forward = lambda z_i, queries: torch.special.bessel_j0(z_i)
    predictor = Predictor([network], PredictionSettings(), batch=1, segmenters=[OpenVINOSegmenter.of(network)])
    with pytest.raises(tds.UserError, match=r"^OpenVINO cannot run this model: .*Leave out --backend openvino\.$"):
        predictor.predict_image(image, bank.all_labels())


def test_the_network_itself_keeps_its_normalisation(plan, make_model):
    network = make_model(plan, 0)
    kinds = [type(module) for module in network.modules()]
    assert InstanceNorm not in {type(module) for module in openvino._convertible(network).modules()}
    assert [type(module) for module in network.modules()] == kinds


def test_no_usage_data_are_sent():
    """OpenVINO's import would start its telemetry."""
    code = "import sys, torch; from textdiffseg.inference.openvino import _convert"
    code += "\ntry:\n    _convert(torch.nn.Identity(), ())\nexcept Exception:\n    pass\n"
    code += "assert 'openvino' in sys.modules\nassert sys.modules['openvino_telemetry'] is None\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
