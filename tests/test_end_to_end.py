"""The whole chain as a user types it, on a few real cases of each shared data set."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.store import list_cases, open_case
from textdiffseg.folds.lock import alone
from textdiffseg.tasks import train as tasks_train
from textdiffseg_cli import evaluate, plan_and_preprocess, predict, train

pytestmark = pytest.mark.usefixtures("few_patches")
DATASETS = {"Dataset004_Hippocampus": 6, "Dataset101_SoftTissueSarcoma": 5}


@pytest.fixture(scope="module", params=DATASETS, ids=lambda name: name.split("_")[1])
def chain(request, shared_data, shrink_plan, tmp_path_factory):
    """A root where a few cases went through planning, training and prediction; (root, data set, held-out case)."""
    name, root = request.param, tmp_path_factory.mktemp("root")
    raw, source = root / "raw" / name, shared_data / name
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))[: DATASETS[name] + 1]
    *cases, held_out = [path.name.removesuffix(".nii.gz") for path in labels]
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True)
    shutil.copy(source / "dataset.json", raw)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", raw / "imagesTr")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", raw / "labelsTr")
    shutil.copy(source / "imagesTr" / f"{held_out}_0000.nii.gz", raw / "imagesTs")
    header = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(header | {"numTraining": len(cases)}))
    at = ["--root", str(root)]
    assert plan_and_preprocess.main([name.split("_")[1], *at, "--workers", "0"]) == 0
    shrink_plan(root / "preprocessed" / name / "plan.json")
    assert train.main([name, "0", *at, "--epochs", "2"]) == 0
    assert predict.main(["-i", str(raw / "imagesTs"), "-o", str(root / "out"), *at]) == 0
    return root, name, held_out


def test_cases_are_stored_on_a_grid_that_is_not_finer_than_their_own(chain):
    root, name, _ = chain
    folder = root / "preprocessed" / name
    plan = Plan.read(folder / "plan.json")
    assert len(list_cases(folder)) == DATASETS[name]
    for case in list_cases(folder):
        stored = open_case(folder, case)
        assert stored.image.shape[1:] == stored.labels.shape
        finest = stored.record.transform.geometry.spacing  # on a CPU the plan may be coarser
        assert all(mm >= 0.99 * own for mm, own in zip(plan.spacing, finest, strict=True))
        assert stored.record.present


def test_training_leaves_scores_on_the_original_grid_that_evaluation_repeats(chain, tmp_path):
    root, name, _ = chain
    validation = root / "results" / name / "default" / "fold_0" / "validation"
    summary = json.loads((validation / "summary.json").read_text())
    references = tmp_path / "references"
    references.mkdir()
    shutil.copy(root / "raw" / name / "dataset.json", tmp_path)
    for case in summary["cases"]:
        shutil.copy(root / "raw" / name / "labelsTr" / f"{case['case']}.nii.gz", references)
    again = tmp_path / "summary.json"
    assert evaluate.main([str(validation), str(references), "-o", str(again)]) == 0
    found = json.loads(again.read_text())
    assert found["mean"]["dice"] == pytest.approx(summary["mean"]["dice"], abs=1e-9)
    assert [case["case"] for case in found["cases"]] == [case["case"] for case in summary["cases"]]
    assert (validation.parent / "progress.png").stat().st_size > 10_000


def test_predictions_have_the_scans_geometry_and_the_data_sets_values(chain):
    root, name, held_out = chain
    scan = sitk.ReadImage(str(root / "raw" / name / "imagesTs" / f"{held_out}_0000.nii.gz"))
    mask = sitk.ReadImage(str(root / "out" / f"{held_out}.nii.gz"))
    assert mask.GetSize() == scan.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, get)(), getattr(scan, get)(), atol=1e-5)
    values = json.loads((root / "raw" / name / "dataset.json").read_text())["labels"].values()
    assert set(np.unique(sitk.GetArrayFromImage(mask))) <= set(values)


def test_complete_outputs_are_skipped_and_damaged_ones_made_again(chain):
    root, name, held_out = chain
    command = ["-i", str(root / "raw" / name / "imagesTs"), "-o", str(root / "out"), "--root", str(root)]
    mask = root / "out" / f"{held_out}.nii.gz"
    before = mask.stat().st_mtime_ns
    assert predict.main(command) == 0
    assert mask.stat().st_mtime_ns == before
    content = mask.read_bytes()
    mask.write_bytes(content[:100])
    assert predict.main(command) == 0
    assert mask.read_bytes() == content


def test_a_prompt_restricts_the_output_and_an_unknown_one_is_refused(chain, tmp_path, capsys):
    root, name, _ = chain
    labels = json.loads((root / "raw" / name / "dataset.json").read_text())["labels"]
    last, value = list(labels.items())[-1]
    command = ["-i", str(root / "raw" / name / "imagesTs"), "-o", str(tmp_path), "--root", str(root)]
    assert predict.main([*command, "--prompt", last]) == 0
    (mask,) = tmp_path.glob("*.nii.gz")
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))))) <= {0, value}
    assert predict.main([*command, "--prompt", "left big toe"]) == 2
    assert "nearest" in capsys.readouterr().err


def test_a_fold_that_does_not_exist_is_refused(chain, capsys):
    root, name, _ = chain
    assert train.main([name, "7", "--root", str(root)]) == 2
    assert "Fold 7 does not exist" in capsys.readouterr().err
    assert not (root / "results" / name / "default" / "fold_7").exists()


def test_a_fold_whose_cases_have_changed_is_not_scored(chain, capsys):
    root, name, _ = chain
    path = root / "preprocessed" / name / "splits.json"
    before = path.read_text()
    splits = json.loads(before)
    splits["folds"][0], splits["folds"][1] = splits["folds"][1], splits["folds"][0]
    path.write_text(json.dumps(splits))
    try:
        assert train.main([name, "0", "--val", "--root", str(root)]) == 2
    finally:
        path.write_text(before)
    assert "started with other cases" in capsys.readouterr().err


def test_a_fold_that_another_process_trains_is_left_alone(chain, capsys):
    root, name, _ = chain
    with alone(FoldFolder(root / "results" / name / "default" / "fold_0")):
        assert train.main([name, "0", "--val", "--root", str(root)]) == 2
    assert "another tds_train is at work here" in capsys.readouterr().err


def test_a_plan_for_another_device_is_reported(chain):
    root, name, _ = chain
    plan = Plan.read(root / "preprocessed" / name / "plan.json")
    notes_on = tasks_train._notes_on_device
    assert [*notes_on(plan, "cpu")] == []
    assert "this plan was made for a CPU" in [*notes_on(plan, "cuda")][-1]
    assert "this plan was made for a GPU; on a CPU" in [*notes_on(plan.model_copy(update={"device": "gpu"}), "cpu")][-1]


def test_a_run_has_one_length(capsys):
    with pytest.raises(SystemExit):
        train.main(["4", "0", "--epochs", "2", "--max-minutes", "1"])
    assert "not allowed with argument --epochs" in capsys.readouterr().err


@pytest.fixture(scope="module")
def together(write_raw, shrink_plan, tmp_path_factory):
    """A root where two data sets went through the chain as one; their ids and values collide, and one of them has
    ignored voxels and a label that is annotated in half of its cases."""
    root = tmp_path_factory.mktemp("together")
    write_raw(root, "Dataset901_Tiny")
    other = write_raw(root, "Dataset902_Other", labels=("Bright_Cube", "ignore", "orb"), values=(3, 4, 2), seed=1)
    for case in ("tiny_00", "tiny_01"):
        path = other / "labelsTr" / f"{case}.nii.gz"
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image * sitk.Cast(image != 2, image.GetPixelID()), str(path))
    header = json.loads((other / "dataset.json").read_text())
    told = {"annotated": {"tiny_00": ["Bright_Cube"], "tiny_01": ["Bright_Cube"]}, "absent": {"tiny_01": ["orb"]}}
    (other / "dataset.json").write_text(json.dumps(header | told))
    at = ["--root", str(root)]
    assert plan_and_preprocess.main(["902+Tiny", *at, "--workers", "0"]) == 0
    assert Plan.read(root / "preprocessed" / TOGETHER / "plan.json").known_together == ((1, 2), (1, 3))
    shrink_plan(root / "preprocessed" / TOGETHER / "plan.json")
    assert train.main(["901+902", "0", *at, "--epochs", "2"]) == 0
    return root


TOGETHER = "Dataset901+902_Tiny+Other"


def test_each_case_of_several_data_sets_keeps_what_is_known_of_it(together):
    folder = together / "preprocessed" / TOGETHER
    plan = Plan.read(folder / "plan.json")
    assert [(label.name, label.value) for label in plan.labels] == [("bright cube", 1), ("dark cube", 2), ("orb", 3)]
    cases = {case: open_case(folder, case) for case in list_cases(folder)}
    annotated = {case: (stored.record.annotated, stored.record.absent) for case, stored in cases.items()}
    assert annotated == {
        **{f"901_tiny_{index:02d}": ((1, 2), ()) for index in range(4)},
        "902_tiny_00": ((1,), ()),
        "902_tiny_01": ((1,), (3,)),
        "902_tiny_02": ((1, 3), ()),
        "902_tiny_03": ((1, 3), ()),
    }
    for case, stored in cases.items():
        number, _, name = case.partition("_")
        raw = next((together / "raw").glob(f"Dataset{number}_*"))
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / f"{name}.nii.gz")))
        numbers = {"901": {0: 0, 1: 1, 2: 2}, "902": {0: 0, 3: 1, 4: -1, 2: 3}}[number]
        assert np.array_equal(np.vectorize(numbers.get)(truth), stored.original_labels())


def test_several_data_sets_are_validated_by_what_each_annotates(together):
    summary = json.loads((together / "results" / TOGETHER / "default/fold_0/validation/summary.json").read_text())
    known = {case["case"]: set(case["labels"]) for case in summary["cases"]}
    assert {case.partition("_")[0] for case in known} == {"901", "902"}
    assert all(labels <= {"bright cube", "dark cube"} for case, labels in known.items() if case.startswith("901"))
    assert all(labels <= {"bright cube", "orb"} for case, labels in known.items() if case.startswith("902"))


def test_the_model_of_several_data_sets_predicts_all_their_labels(together, tmp_path, capsys):
    raw = together / "raw" / "Dataset901_Tiny"
    command = ["-i", str(raw / "imagesTr"), "-o", str(tmp_path), "--root", str(together), "-d", "901+902"]
    assert predict.main(command) == 0
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in tmp_path.glob("*.nii.gz")]
    assert len(masks) == 4
    assert "learned bright cube and dark cube, bright cube and orb on different scans" in capsys.readouterr().out
    assert set(np.unique(masks)) <= {0, 1, 2, 3}
    assert json.loads((tmp_path / "tiny_00.json").read_text())["labels"].keys() == {"bright cube", "dark cube", "orb"}


def test_texts_of_cases_go_all_the_way(tiny_raw, shrink_plan, tmp_path, capsys):
    texts, at = tiny_raw / "texts", ["--root", str(tmp_path)]
    texts.mkdir()
    for case in ("tiny_00", "tiny_01", "tiny_03"):
        (texts / f"{case}.txt").write_text(f"what is known of {case}")
    assert plan_and_preprocess.main(["901", *at, "--workers", "0"]) == 0
    shrink_plan(tmp_path / "preprocessed" / "Dataset901_Tiny" / "plan.json")
    assert train.main(["901", "0", *at, "--epochs", "1"]) == 0
    assert "Texts: 3 of 4 cases have one" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "preprocessed")  # a fold stands alone
    command = ["-i", str(tiny_raw / "imagesTr"), "-o", str(tmp_path / "out"), *at]
    assert predict.main([*command, "--texts", str(texts)]) == 0
    assert "Texts: 3 of 4 scans have one." in capsys.readouterr().out
    told = [json.loads((tmp_path / "out" / f"tiny_0{i}.json").read_text())["request"]["text"] for i in range(4)]
    assert [text is None for text in told] == [False, False, True, False]
    assert len(set(told)) == 4


def test_cases_that_were_trained_on_choose_nothing(tiny_raw, shrink_plan, tmp_path, capsys):
    at = ["--root", str(tmp_path)]
    assert plan_and_preprocess.main([str(tiny_raw), *at, "--workers", "0"]) == 0
    shrink_plan(tmp_path / "preprocessed" / tiny_raw.name / "plan.json")
    assert train.main(["901", "all", *at, "--epochs", "1"]) == 0
    assert "nothing was chosen or calibrated" in capsys.readouterr().out
    fold = tmp_path / "results" / tiny_raw.name / "default" / "fold_all"
    assert not {"sampling.json", "calibration.json"} & {path.name for path in fold.iterdir()}
    assert predict.main(["-i", str(tiny_raw / "imagesTr"), "-o", str(tmp_path / "out"), *at]) == 0
    out = capsys.readouterr().out
    assert "Fold all: all cases were trained on, so the sampling was not chosen: no mirroring" in out
    assert "Sampling: one pass, no mirroring" in out


@pytest.fixture(scope="module", params=["default", "unet"])
def nested(request, write_raw, shrink_plan, tmp_path_factory):
    """A root where labels that overlap went through the chain; (root, raw folder, trained fold)."""
    root = tmp_path_factory.mktemp("nested")
    raw = write_raw(root, cases=5)
    header = json.loads((raw / "dataset.json").read_text())
    told = {"labels": {"background": 0, "both": [1, 2], "dark cube": 2}, "regions_class_order": [1, 2]}
    (raw / "dataset.json").write_text(json.dumps(header | told))
    at = ["--root", str(root), "--preset", request.param]
    assert plan_and_preprocess.main(["901", *at, "--workers", "0"]) == 0
    shrink_plan(PreprocessedFolder(root / "preprocessed" / raw.name).plan(request.param))
    assert train.main(["901", "0", *at, "--epochs", "2"]) == 0
    return root, raw, root / "results" / raw.name / request.param / "fold_0"


def test_labels_that_overlap_are_scored_as_evaluation_does_and_predicted(nested, tmp_path, capsys):
    root, raw, fold = nested
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["labels"]) == {"both", "dark cube"}
    again, references = tmp_path / "summary.json", tmp_path / "references"
    references.mkdir()
    shutil.copy(raw / "dataset.json", tmp_path)
    for case in summary["cases"]:
        shutil.copy(raw / "labelsTr" / f"{case['case']}.nii.gz", references)
    assert evaluate.main([str(fold / "validation"), str(references), "-o", str(again)]) == 0
    found = json.loads(again.read_text())
    for one in (label for case in summary["cases"] for label in case["labels"].values()):
        one["lesions"] = None  # `tds_evaluate` scores them only with --lesions
    assert found["cases"] == summary["cases"]
    command = ["-i", str(raw / "imagesTr"), "-o", str(tmp_path / "out"), "--root", str(root)]
    assert predict.main([*command, "--prompt", "dark cube"]) == 0
    masks = list((tmp_path / "out").glob("*.nii.gz"))
    assert len(masks) == len(list((raw / "imagesTr").iterdir()))
    for path in masks:
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))) <= {0, 2}
    capsys.readouterr()
    if fold.parent.name == "unet":
        assert predict.main([*command, "--uncertainty"]) == 2
        assert "one fold is used" in capsys.readouterr().err
        return
    assert predict.main([*command, "--uncertainty"]) == 0
    for path in masks:
        manifest = path.with_name(path.name.replace(".nii.gz", ".json"))
        volumes = json.loads(manifest.read_text())["volumes"]
        assert [one["label"] for one in volumes] == ["both", "dark cube"]
        image = sitk.ReadImage(str(path))
        mask, voxel_ml = sitk.GetArrayFromImage(image), np.prod(image.GetSpacing()) / 1000
        assert [one["volume_ml"] for one in volumes] == pytest.approx(
            [(mask > 0).sum() * voxel_ml, (mask == 2).sum() * voxel_ml]
        )
