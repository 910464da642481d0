"""The commands behind claims on words, end to end with tiny networks. Each reports all figures and verdicts."""

import contextlib
import json
import sys

import numpy as np
import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.raw.dataset import read_dataset
from plans.records import read_json
from textdiffseg.folds.position import read_position
from textdiffseg.folds.weights import hash_weights
from textdiffseg.imaging.sources.files import read_labels
from textdiffseg.training.options import TrainingOptions

VERDICTS = {"holds", "fails", "cannot be told"}


@pytest.fixture
def call(benchmark, shrink_plan, monkeypatch, capsys):
    """A function that runs a benchmark in this process, with small networks and one epoch of three iterations.

    It returns the printed JSON.
    """

    def here(work, *arguments):
        with contextlib.redirect_stdout(sys.stderr):
            return work(*arguments)

    def two_epochs(max_minutes, epochs=None, **options):
        return TrainingOptions(epochs=2, **options)

    def run(name, *arguments):
        module = benchmark(name)
        prepare = benchmark("stored").prepare

        def prepare_small(data, root, preset, device, *planning, **options):
            folder = prepare(data, root, preset, device, *planning, **options)
            path = PreprocessedFolder(folder).plan(preset)
            if Plan.read(path).stages[-1].width > 8:
                shrink_plan(path)
            return folder

        monkeypatch.setattr(module, "prepare", prepare_small, raising=False)
        monkeypatch.setattr(module, "in_own_process", here, raising=False)
        monkeypatch.setattr(benchmark("accuracy"), "TrainingOptions", two_epochs)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--device", "cpu"])
        code = module.main()
        output = capsys.readouterr()
        assert code == 0, output.err
        return json.loads(output.out)

    return run


def test_partial_trains_three_models_on_phantoms_that_lack_labels(call, benchmark, monkeypatch, tmp_path):
    partial = benchmark("partial")
    monkeypatch.setattr(partial, "TRAINING", 6)
    found = call("partial", "--root", tmp_path, "--minutes", 1, "--cases", 2)
    assert set(found["models"]) == {"default", "missing is background", "masked U-Net"}
    assert found["missing_share"] == dict.fromkeys(found["often_missing"], 0.5)
    assert [claim["verdict"] in VERDICTS for claim in found["claims"]] == [True, True]
    assert [claim["bar"] for claim in found["claims"]] == [0.1, -0.01]
    known, undeclared = (read_dataset(tmp_path / "raw" / f"{partial.NAME}{end}") for end in ("", "Undeclared"))
    for case, other in zip(known.cases, undeclared.cases, strict=True):
        values = {case.annotation.values[name] for name in case.annotation.annotated}
        assert {*np.unique(read_labels(case.label).array)} <= {0, *values}
        assert other.label.resolve() == case.label
        assert other.annotation.annotated == tuple(label.name for label in known.labels)
    again = call("partial", "--root", tmp_path, "--minutes", 1, "--cases", 2)
    assert again == found, "trained folds are used again"


def test_finetune_starts_one_side_from_a_source_that_knows_half_of_the_labels(call, benchmark, write_raw, tmp_path):
    raw = write_raw(tmp_path, cases=10, labels=("cube", "square", "block"))
    arguments = ("--data", raw, "--root", tmp_path, "--minutes", 1, "--sizes", 2, 3)
    found = call("finetune", *arguments)
    assert (found["source_labels"], found["new_labels"]) == (["cube", "block"], ["square"])
    assert found["cases"] == {"source": 5, "scored": 2}
    source, few = (read_dataset(tmp_path / "raw" / f"{raw.name}{end}") for end in ("Source", "Few"))
    assert not {case.id for case in source.cases} & {case.id for case in few.cases}
    assert {*np.unique([read_labels(case.label).array for case in source.cases])} == {0, 1, 3}
    assert {*np.unique([read_labels(case.label).array for case in few.cases])} == {0, 1, 2, 3}
    for size in ("2", "3"):
        sides = found["sizes"][size]["models"]
        assert [one["0"]["iterations"] for one in sides.values()] == [4, 4], "3, and 1 of the sampler"
        assert [set(one["0"]["labels"]) for one in sides.values()] == [{"cube", "square", "block"}] * 2
        assert [gain["verdict"] in VERDICTS for gain in found["sizes"][size]["gains"].values()] == [True] * 3
        folds = [
            FoldFolder(tmp_path / "results" / few.name / f"{side}, {size} cases, seed 0" / "fold_0") for side in sides
        ]
        model = FoldFolder(tmp_path / "results" / source.name / "default_seed0" / "fold_all")
        assert [read_position(fold).initial for fold in folds] == [hash_weights(model, "best"), None]
    assert call("finetune", *arguments) == found, "trained folds are used again"
    finetune = benchmark("finetune")
    with pytest.raises(UserError, match="was written for other --sizes"):
        finetune.write_part(few.cases[:2], few.labels, few, few.folder)
    with pytest.raises(UserError, match="Give smaller --sizes"):
        finetune.divided(read_dataset(raw), "0", 8, None)


def test_the_masked_network_learns_nothing_about_labels_that_are_not_annotated(model):
    from textdiffseg.data.sampling import full_query
    from textdiffseg.networks.model import build_model
    from textdiffseg.queries import Queries
    from textdiffseg.training.objectives import objective_of

    pytest.importorskip("monai")
    changes = {"preset": "peer-unet", "peer": "unet", "diffusion": None}
    network = build_model(Plan.model_validate(model.plan.model_dump() | changes))
    numbers = torch.tensor([[number for number, _ in full_query([2])]])
    empty = torch.zeros(1, 1, 16)
    queries = Queries(numbers, empty, empty, torch.ones(1, 1, dtype=torch.bool))
    targets = queries.slots(torch.randint(0, 2, (1, 16, 16, 16)) * 2, 2)
    logits = []

    def keep(module, inputs, output):
        output.retain_grad()
        logits.append(output)

    network.network.register_forward_hook(keep)
    objective_of(network).losses(torch.randn(1, 1, 16, 16, 16), targets, queries, None).total.backward()
    gradients = logits[0].grad.abs().amax((0, 2, 3, 4))
    assert gradients[1] == 0
    assert gradients[0] > 0
    assert gradients[2] > 0


def test_each_label_is_drawn_in_half_of_the_cases_and_no_case_lacks_all(benchmark):
    kept = benchmark("partial").draw_annotation(8, np.random.default_rng(0))
    assert kept.sum(0).tolist() == [4] * 6
    assert kept.any(1).all()


def test_joint_trains_a_model_of_each_half_and_one_of_both_whose_sides_are_compared(call, write_raw, tmp_path):
    labels = ("left cube", "third cube", "right cube")
    drawn = {"tiny_01": ["left cube"], "tiny_02": ["left cube", "third cube"]}
    raw = write_raw(tmp_path / "elsewhere", cases=9, labels=labels, annotated=drawn)
    keep_values(raw, "tiny_01", [1])
    keep_values(raw, "tiny_02", [1, 2])
    found = call("joint", "--data", raw, "--root", tmp_path, "--minutes", 1)
    first, second = (read_dataset(tmp_path / "raw" / name) for name in found["data_sets"])
    assert [label.name for label in first.labels] == ["left cube", "right cube"]
    assert [label.value for label in second.labels] == [2]
    assert [case.id for case in first.cases] == ["tiny_00", "tiny_02", "tiny_04", "tiny_06", "tiny_08"]
    assert [case.id for case in second.cases] == ["tiny_03", "tiny_05", "tiny_07"], "tiny_01 lacks its label"
    assert first.cases[1].annotation.annotated == ("left cube",)
    assert {*np.unique(read_labels(first.cases[0].label).array)} == {0, 1, 3}
    assert first.cases[1].images[0].resolve() == raw / "imagesTr" / "tiny_02_0000.nii.gz"
    (claim,) = found["claims"]
    assert claim["verdict"] in VERDICTS
    assert (claim["bar"], claim["pooled"]["cases"]) == (-0.01, 2)
    assert {seeds["0"]["trainings"][0]["iterations"] for seeds in found["models"].values()} == {4}
    both = tmp_path / "results" / "Dataset911+912_FirstHalf+SecondHalf" / "default_seed0" / "fold_0"
    assert read_json(both / "benchmark.json")["minutes"] == 2, "one minute per data set"
    swaps = call("sides", both)
    assert [set(by_label) for by_label in swaps["ways"].values()] == [{"left cube", "right cube"}] * 2
    assert swaps["claims"][0]["verdict"] in VERDICTS


def test_the_split_keeps_left_and_right_together(benchmark):
    from plans.plan import LabelPlan

    names = (
        "brainstem",
        "spinal cord",
        "right parotid gland",
        "left parotid gland",
        "oesophagus",
        "larynx",
        "mandible",
    )
    labels = [LabelPlan(name=name, value=value) for value, name in enumerate(names, start=1)]
    first, second = benchmark("joint").split_labels(labels)
    assert [label.value for label in first] == [1, 3, 4, 7]
    assert [label.value for label in second] == [2, 5, 6]


def keep_values(raw, case, values):
    """Set all other values of a label file to background."""
    from textdiffseg.imaging.writers.files import write_labels

    volume = read_labels(raw / "labelsTr" / f"{case}.nii.gz")
    write_labels(
        raw / "labelsTr" / f"{case}.nii.gz", volume.array[0] * np.isin(volume.array[0], values), volume.geometry
    )


def test_sentences_score_four_ways(call, benchmark, tmp_path):
    sentences = benchmark("sentences")
    arguments = ("--minutes", 1, "--cases", 3, "--training", 6, "--sampler-share", 0.4, "--alternatives")
    found = call("sentences", "--root", tmp_path, *arguments)
    assert (tmp_path / "results" / sentences.NAME / "default_seed0" / "fold_0" / "log.jsonl").is_file()
    assert set(found["ways"]) == {
        "with its text",
        "with another case's text",
        "without its text",
        "trained without texts",
    }
    assert [claim["verdict"] in VERDICTS for claim in found["claims"]] == [True] * 4
    assert found["alternatives"]["verdict"] in VERDICTS
    plans = [Plan.read(path) for path in sorted((tmp_path / "preprocessed").glob("*/plan.json"))]
    assert [plan.reads_texts for plan in plans] == [True, False]
    assert [plan.diffusion.share for plan in plans] == [0.4, 0.4]
    texts = sorted(path.read_text() for path in (tmp_path / "raw" / sentences.NAME / "texts").iterdir())
    assert len(texts) == 6
    assert read_json(tmp_path / "raw" / f"{sentences.NAME}WithoutTexts" / "dataset.json")["labels"]["metastasis"] == 1


def test_context_trains_four_models_on_look_alikes(call, benchmark, monkeypatch, tmp_path):
    context = benchmark("context")
    monkeypatch.setattr(context, "TRAINING", 6)
    found = call("context", "--root", tmp_path, "--minutes", 1, "--cases", 2)
    assert set(found["right_names"]) == {"overview", "window", "guided", "low"}
    assert set(found["verdict"].values()) <= VERDICTS
    plans = {
        path.parents[1].name.removesuffix("_seed0"): Plan.read(path)
        for path in (tmp_path / "results" / benchmark("look_alikes").NAME).glob("*/fold_0/plan.json")
    }
    assert plans["overview"].overview is not None
    assert plans["window"].overview is None
    low = plans["guided_seed0-low"]
    assert (low.resolution, low.spacing) == ("low", (4, 4, 4))
